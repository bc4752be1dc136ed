"""What the page on engines says of powers, of tests and of the example is so."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

import ebus.core
from ebus import Engine, open_engine
from ebus.client.engine import HttpEngine
from ebus.core.address import SupportsSettings
from ebus.core.engine import engine_names, settings_of
from ebus.testing import EngineConformance
from ebus.testing.lifetime import Lifetime
from tests import in_memory
from tests.conftest import ROOT
from tests.nats import fixtures
from tests.nats.servers import NatsServer
from tests.test_layering import imported

PAGE = (ROOT / "docs" / "engines.md").read_text()
EXAMPLE = ROOT / "examples" / "ebus-jsonl"
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
]


def powers() -> dict[str, Any]:
    """Every optional protocol of the core, by its name."""
    found: dict[str, Any] = {}
    for path in (ROOT / "ebus" / "core").glob("*.py"):
        module = import_module(f"{ebus.core.__name__}.{path.stem}")
        found |= {name: it for name, it in vars(module).items() if name.startswith("Supports")}
    return found


tmp_path_factory = in_memory.tmp_path_factory
nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer
) -> Iterator[dict[str, Engine]]:
    """By the name in the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE / "src")
        from ebus_jsonl import JsonlEngine

        engines = {
            "sqlite": open_engine(f"sqlite:{tmp_path_factory.mktemp('sqlite')}"),
            "memory": open_engine("memory:"),
            "nats": open_engine(f"{nats_server.url}?prefix=powers"),
            "http": open_engine("http://key@localhost"),
            "jsonl": JsonlEngine(tmp_path_factory.mktemp("jsonl")),
        }
        yield engines
        for engine in engines.values():
            engine.close()


def stores_of(engine: Engine) -> object:
    """A store, of a tenant that is not there; of a server without asking it."""
    return engine._asking if isinstance(engine, HttpEngine) else engine.open("alice")


@pytest.mark.parametrize("name", sorted(powers()))
def test_the_table_says_which_engine_has_which_power(name: str, engines: dict[str, Engine]) -> None:
    columns = {re.sub(r"\W*(\w*).*", r"\1", title): it for it, title in enumerate(ROWS[0])}
    [row] = [row for row in ROWS if f"`{name}`" in row[0] and len(row) == len(ROWS[0])]
    power = powers()[name]
    for engine_name, engine in engines.items():
        has = isinstance(engine, power) or isinstance(stores_of(engine), power)
        if power is SupportsSettings:
            has = engine_name in engine_names() and settings_of(engine_name) is not None
        assert row[columns[engine_name]] == ("yes" if has else "no"), engine_name


def test_every_power_is_explained_and_those_that_the_suite_tests_are_marked() -> None:
    rows = [row for row in ROWS if len(row) == 4 and "`Supports" in row[0]]
    explained = {name: row[3] for row in rows for name in re.findall(r"`(Supports\w+)`", row[0])}
    assert explained.keys() == powers().keys()
    tested = inspect.getsource(Lifetime.test_a_store_has_the_powers_its_author_names)
    marked = {name for name, mark in explained.items() if mark == "x"}
    assert marked == powers().keys() & set(re.findall(r"\bSupports\w+", tested))


def test_every_test_that_is_named_is_one_of_the_suite() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) > 10
    for name in named:
        assert hasattr(EngineConformance, name), name


def excerpts() -> list[str]:
    """The code of the page, but for the program at its beginning."""
    blocks = re.findall(r"^```(python|toml|json)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [block for _, block in blocks[1:]]


@pytest.mark.parametrize("excerpt", excerpts(), ids=lambda it: it.split("\n")[0].strip())
def test_every_excerpt_is_of_the_example(excerpt: str) -> None:
    if excerpt.startswith('{"ebus-jsonl"'):
        assert excerpt in (EXAMPLE / "README.md").read_text()
        return
    files = [*EXAMPLE.rglob("*.py"), EXAMPLE / "pyproject.toml"]
    assert any(excerpt in file.read_text() for file in files)


def test_the_example_imports_nothing_but_the_core() -> None:
    for module in (EXAMPLE / "src").rglob("*.py"):
        for name in imported(module):
            top = name.partition(".")[0]
            assert (
                top in sys.stdlib_module_names
                or top in {"msgspec", "ebus_jsonl"}
                or name.startswith("ebus.core.")
            ), f"{module} imports {name}"


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", it).lower().replace(" ", "-") for it in headings}
    links = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert links
    assert set(links) <= anchors
