"""A file is refused exactly when it nests too deeply, and before that is dangerous."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ebus.config import document
from ebus.config.document import parse_document
from ebus.config.mistakes import FileMistakes

DEPTH = 3
"""The bound in these tests, so that what is generated is often just below it or above."""


@pytest.fixture(scope="module", autouse=True, params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest) -> Iterator[None]:
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "LOADER", getattr(yaml, request.param))
        patch.setattr(document, "MAX_DEPTH", DEPTH)
        yield


class Dumper(yaml.SafeDumper):
    """Writes a value out wherever it stands: behind an alias it would not be nested."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(inner) for inner in value), default=0)
    return 0


def refusals(text: str) -> list[str]:
    mistakes = FileMistakes("x")
    root = parse_document(text.encode(), mistakes)
    found = [mistake.message for mistake in mistakes.in_order()]
    assert (root is None) == bool(found)
    return found


TOO_DEEP = f"nested more than {DEPTH} levels deep; no setting is"

LEAVES = st.sampled_from(["a", "[", "- b", "# c", [], {}]) | st.integers(0, 9)


@st.composite
def nested(draw: st.DrawFn) -> Any:
    """A value of up to two levels more than are allowed, with others beside it on each."""
    value: Any = draw(LEAVES)
    for _ in range(draw(st.integers(0, DEPTH + 2))):
        beside = draw(st.lists(LEAVES, max_size=2))
        values: list[Any] = draw(st.permutations([value, *beside]))
        value = draw(st.sampled_from([values, dict(zip("abc", values, strict=False))]))
    return value


@given(value=nested(), flow=st.sampled_from([True, False, None]))
def test_only_what_nests_too_deeply_is_refused(value: Any, flow: bool | None) -> None:
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=flow)
    assert refusals(text) == ([TOO_DEEP] if depth_of(value) > DEPTH else [])


@given(value=nested())
def test_the_line_is_that_of_the_first_level_too_deep(value: Any) -> None:
    mistakes = FileMistakes("x")
    text = "a:\n  b:\n    c:\n      d: 1\ne: " + yaml.dump(
        value, Dumper=Dumper, default_flow_style=True
    )
    parse_document(text.encode(), mistakes)
    assert [mistake.where for mistake in mistakes.in_order()] == ["x:4"]


@pytest.mark.parametrize("text", ["&a [[*a, [*a]]]", "[[&a [], *a]]", "&a {b: {c: *a}}"])
def test_an_alias_is_no_level(text: str) -> None:
    assert refusals(text) == []


@pytest.mark.parametrize("text", ["[[[a]]", "[[[a]", "[[[a]]]\n---\nb", "[[[*b]]]"])
def test_what_is_wrong_within_the_last_level_allowed_is_told(text: str) -> None:
    [message] = refusals(text)
    assert message.startswith("not YAML: ")
