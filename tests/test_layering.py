"""Imports point one way: what stands lower knows nothing of what stands higher."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ebus.cli import main
from tests.conftest import ROOT

PACKAGE = ROOT / "ebus"
OF_OURS = {
    "ebus/__init__.py": {"core"},
    "ebus/__main__.py": {"cli"},
    "ebus/core": {"core"},
    "ebus/backends/__init__.py": set(),
    "ebus/backends/jetstream": {"core", "backends.jetstream"},
    "ebus/backends/memory.py": {"core"},
    "ebus/backends/sqlite": {"core", "backends.sqlite"},
    "ebus/bus": {"core", "bus", ""},
    "ebus/client": {"core", "client", ""},
    "ebus/config": {"core", "config"},
    "ebus/tenants": {"core", "config", "backends.sqlite", "tenants"},
    "ebus/http": {"core", "config", "tenants", "http", ""},
    "ebus/moving": {"core", "moving"},
    "ebus/cli": {"core", "config", "tenants", "http", "moving", "cli", ""},
    "ebus/testing": {"core", "testing", ""},
}
"""Which of our rooms each room may import; "" is the front door."""

OF_OTHERS = {
    "ebus/__init__.py": set[str](),
    "ebus/core": {"msgspec"},
    "ebus/backends/jetstream": {"msgspec", "nats", "uvloop"},
    "ebus/backends/memory.py": {"msgspec"},
    "ebus/backends/sqlite": {"msgspec", "apsw"},
    "ebus/bus": {"msgspec"},
    "ebus/client": {"msgspec", "httpx"},
    "ebus/config": {"msgspec", "yaml"},
    "ebus/tenants": {"msgspec", "apsw"},
    "ebus/http": {
        "msgspec",
        "litestar",
        "httptools",
        "uvicorn",
        "uvloop",
        "prometheus_client",
        "opentelemetry",
    }
    | {"compression", "backports"},  # zstd: the standard library's from Python 3.14 on
    "ebus/moving": {"msgspec", "compression", "backports"},
    "ebus/cli": {"msgspec", "click"},
    "ebus/testing": {"msgspec", "pytest", "hypothesis"},
}
"""Which packages each room may import beside the standard library."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    name = module.relative_to(ROOT).as_posix()
    [found] = [room for room in OF_OURS if name == room or name.startswith(f"{room}/")]
    return found


def imported(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module
            names.add(node.module)
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_its_room_may(module: Path) -> None:
    for name in imported(module):
        top, _, rest = name.partition(".")
        if top == "ebus":
            allowed = OF_OURS[room(module)]
            assert any(
                rest == part or (part and rest.startswith(f"{part}.")) for part in allowed
            ), f"{module} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in OF_OTHERS.get(room(module), set()), f"{module} imports {name}"


@pytest.mark.parametrize("package", ["ebus", "ebus.core.aio", "ebus.bus", "ebus.backends.memory"])
def test_the_library_loads_neither_a_server_nor_a_driver(package: str) -> None:
    program = f"import sys, {package}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & {"litestar", "uvicorn", "apsw", "yaml", "click", "hypothesis", "pytest"}
    assert not loaded & {"httpx", "nats"}
    assert "pydantic" not in loaded


def test_only_what_serves_loads_a_server() -> None:
    names = [name for name in main.list_commands(click.Context(main)) if name != "serve"]
    assert {"keygen", "tenant"} <= set(names)
    program = f"""if True:
        import sys
        from ebus.cli import main
        for name in {names}:
            assert main.get_command(None, name) is not None
        print(*sys.modules)
    """
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & {"litestar", "uvicorn", "uvloop", "httptools"}


def test_every_module_of_a_command_is_found() -> None:
    modules = {
        module.stem.rstrip("_")
        for module in (PACKAGE / "cli").glob("[!_]*.py")
        if re.search(r"^@click\.(command|group)\(", module.read_text(), re.MULTILINE)
    }
    assert modules == set(main.list_commands(click.Context(main)))


def test_no_module_is_named_for_nothing() -> None:
    nameless = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert [module for module in MODULES if module.stem in nameless] == []
