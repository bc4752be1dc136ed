"""Whatever the file holds, the answer is a Config or every mistake, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ebus.config import FILE_KEYS, ConfigError, document, load_config
from tests.config.tenants_yaml import ONE_TENANT, write


@pytest.fixture(scope="module", params=["CSafeLoader", "SafeLoader"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "LOADER", getattr(yaml, request.param))
        yield tmp_path_factory.mktemp("any")


def refused_lines(path: str) -> list[int] | None:
    """The lines of the mistakes; None when there are none and the file was loaded."""
    try:
        config = load_config(path, {})
    except ConfigError as error:
        places = [mistake.where.rpartition(":") for mistake in error.mistakes]
        return [int(line) for file, _, line in places if file == path]
    return None if config.tenants else []


def check(place: Path, text: str | bytes) -> None:
    lines = refused_lines(write(place, text))
    if lines is not None:
        assert lines
        assert lines == sorted(lines)
        assert lines[0] >= 1


@given(data=st.binary())
def test_any_bytes(place: Path, data: bytes) -> None:
    check(place, data)


# Text that is more likely to be YAML, and YAML that is more likely to be ours.
SIGNS = st.sampled_from(
    [
        *"\n\t :-?,[]{}#&*!|>'\"%@`~<=ab1",
        "\n  ",
        "\n- ",
        ": ",
        "---\n",
        "&a ",
        "*a",
        "!!int ",
        "<<: ",
    ]
)
WORDS = st.sampled_from([key.rpartition(".")[2] for key in FILE_KEYS])


@given(text=st.lists(SIGNS | WORDS | st.characters()).map("".join))
def test_any_text(place: Path, text: str) -> None:
    check(place, text.encode(errors="surrogatepass"))


@given(cut=st.integers(0, len(ONE_TENANT)), text=st.lists(SIGNS | WORDS).map("".join))
def test_any_text_in_the_middle_of_a_good_file(place: Path, cut: int, text: str) -> None:
    check(place, ONE_TENANT[:cut] + text + ONE_TENANT[cut:])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
VALUES = st.recursive(
    SCALARS | WORDS | st.sampled_from(["full", "sqlite", "alice"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(WORDS, values, max_size=4),
    max_leaves=12,
)


@given(values=st.dictionaries(WORDS, VALUES))
def test_any_values_below_known_keys(place: Path, values: dict[str, Any]) -> None:
    check(place, yaml.safe_dump(values, allow_unicode=True))
