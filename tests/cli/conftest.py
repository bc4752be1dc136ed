"""A config of two tenants in a directory of the test's own, and the command line on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.cli import main
from tests.http.conftest import write_config

KEYS = {
    "alice": "alice-secret-key-123-aaaaaaaaaaaaaaaa",
    "bob": "bob-secret-key-456-bbbbbbbbbbbbbbbbbb",
}

Ebus = Callable[..., Result]


def config_of(directory: Path, **settings: object) -> None:
    tenants = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    directory.mkdir(exist_ok=True)
    write_config(directory / "tenants.yaml", {"tenants": tenants, **settings})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a `tenants.yaml` of alice and bob, and `other.yaml` elsewhere."""
    monkeypatch.chdir(tmp_path)
    config_of(tmp_path)
    write_config(
        tmp_path / "other.yaml",
        {
            "data_dir": "other",
            "tenants": [{"name": name, "api_key": key} for name, key in KEYS.items()],
        },
    )
    monkeypatch.setattr(os, "nice", lambda _: 0)  # the tests' own process stays as it is
    return tmp_path


@pytest.fixture
def ebus(place: Path) -> Ebus:
    def run(*arguments: str, config: str = "tenants.yaml") -> Result:
        result = CliRunner().invoke(main, [*arguments, "--config", config])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


def stored(directory: Path, name: str, events: int = 3, begin: int = 0) -> Path:
    """Append so many events to a tenant, and close its file. Of many, each has 2 kB."""
    with SqliteEngine(directory) as engine:
        numbers = range(begin, begin + events)
        store = engine.open(name)
        pad = {"note": "x" * 2_000} if events >= 10_000 else {}
        for some in (numbers[at : at + 1_000] for at in range(0, events, 1_000)):
            store.append([NewEvent.of("OrderPlaced", {"order": it, **pad}) for it in some])
        store.save_checkpoint("mailer", 1)
    return directory / f"{name}.db"


def values(directory: Path, name: str) -> list[object]:
    """What the events of a tenant hold."""
    with SqliteEngine(directory) as engine:
        return [event.value() for event in engine.open(name).read(1).events]


def orders(count: int, begin: int = 0) -> list[object]:
    return [{"order": number} for number in range(begin, begin + count)]


def damage(file: Path) -> None:
    """Make a page in the middle of a file unreadable, unlike its size and its first page."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xa5" * (size - 2 * 4096))
