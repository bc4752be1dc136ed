"""What a user can meet stands in the docs: settings, routes, commands, options, error codes."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import click
import pytest

import ebus
from ebus.cli import main
from ebus.client import Client
from ebus.config import ENVIRONMENT, FILE_KEYS, load_config
from ebus.core import errors
from ebus.core.errors import EbusError
from ebus.core.limits import Limits
from ebus.http.openapi import openapi_document
from tests.conftest import ROOT
from tests.http.conftest import write_config
from tests.live_server import serving

SETTINGS = (ROOT / "docs" / "settings.md").read_text()
HTTP_API = (ROOT / "docs" / "http-api.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("key", FILE_KEYS)
def test_every_key_of_the_config_file_is_documented(key: str) -> None:
    assert f"| `{key.removeprefix('limits.')}` |" in SETTINGS


@pytest.mark.parametrize("limit", Limits.__struct_fields__)
def test_every_limit_is_documented_with_its_default(limit: str) -> None:
    assert f"| `{limit}` | {getattr(Limits(), limit)} |" in SETTINGS


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_every_variable_is_documented(variable: str) -> None:
    assert f"| `{variable}` |" in SETTINGS


def commands() -> dict[str, click.Command]:
    """Every command by its name, such as `serve` and `tenant create`."""
    found = {name: command(name) for name in main.list_commands(click.Context(main))}
    for name, group in list(found.items()):
        if isinstance(group, click.Group):
            found |= {f"{name} {own}": command for own, command in group.commands.items()}
    return found


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented_with_its_options(name: str) -> None:
    assert f"| `ebus {name}` |" in SETTINGS
    for parameter in commands()[name].params:
        if isinstance(parameter, click.Argument):
            assert f"{parameter.human_readable_name.upper()}" in SETTINGS
            continue
        assert isinstance(parameter, click.Option)
        assert f"`{parameter.opts[0]}" in SETTINGS


@pytest.mark.parametrize("name", commands())
def test_every_option_has_help(name: str) -> None:
    assert commands()[name].help
    for parameter in commands()[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help


def test_every_route_is_documented(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    write_config(path, {"admin_key_sha256": "0" * 64, "tenants": []})
    rows = [line.split("|")[1] for line in HTTP_API.splitlines() if line.startswith("| `")]
    for route, methods in openapi_document(load_config(str(path), {}))["paths"].items():
        for method in methods:
            pattern = rf"`{method.upper()}\b.*{re.escape(route)}[`?]"
            assert any(re.search(pattern, row) for row in rows), f"{method} {route}"


def raised_codes() -> set[str]:
    """Every code that a problem is given: those of the errors, and those of the edge."""
    codes = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, EbusError) and error is not EbusError
    }
    for module in (ROOT / "ebus" / "http").rglob("*.py"):
        source = module.read_text()
        codes |= set(re.findall(r"Problem\(\s*\d{3},\s*\"(\w+)\"", source))
    edge = (ROOT / "ebus" / "http" / "problems.py").read_text()
    [routing] = re.findall(r"_ROUTING_CODES = {(.*)}", edge)
    codes |= set(re.findall(r'"(\w+)"', routing)) | {"bad_request", "key_required", "key_invalid"}
    return codes


@pytest.mark.parametrize("code", sorted(raised_codes()))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in HTTP_API


def test_the_codes_were_found() -> None:
    assert {"invalid_json", "rate_limited", "not_found", "store_busy"} <= raised_codes()
    assert len(raised_codes()) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_readme_begins_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line]
    assert lines[0] == "# ebus"
    assert lines[1].split()[:2] == ["make", "serve"]
    assert lines[2].split()[:2] == ["make", "test"]


def test_the_program_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(programs) == 1
    monkeypatch.chdir(tmp_path)
    exec(programs[0], {})
    with ebus.open_engine("sqlite:data") as engine:
        alice = engine.open("alice")
        assert [event.value() for event in alice.read(1).events] == [{"order": "A-001"}]
        assert alice.checkpoint("mailer") == 1


def test_the_program_in_the_page_on_engines_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "engines.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert capsys.readouterr().out == "1 1\n1 OrderPlaced {'order': 'A-001'}\n"


def test_the_programs_in_the_page_on_the_bus_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are one program in pieces: each may use what stands above it."""
    page = (ROOT / "docs" / "bus.md").read_text()
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "bus_page"}
    for language, block in blocks:
        if language == "python":
            exec(block, names)
        else:
            assert capsys.readouterr().out == block
    assert capsys.readouterr().out == ""
    assert len(blocks) > 10


def test_the_program_in_the_page_on_moving_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "moving.md").read_text()
    [program] = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    [printed] = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", ["export", "import", "copy"])
def test_the_page_on_moving_says_which_command_has_which_option(name: str) -> None:
    page = (ROOT / "docs" / "moving.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `--")]
    column = {"export": 2, "import": 3, "copy": 4}[name]
    documented = {
        option
        for row in rows
        for option in re.findall(r"`(--[\w-]+)", row[1])
        if row[column].strip() == "x"
    }
    options = [it for it in command(name).params if isinstance(it, click.Option)]
    assert documented == {option.opts[0] for option in options}


SHOP = "shop-secret-key-1234567890123456789012"
CUSTOMERS = {
    "shop": SHOP,
    "acme": "acme-secret-key-1234567890123456789012",
    "globex": "globex-secret-key-12345678901234567890",
}


@pytest.mark.parametrize("name", ["tutorial.md", "recipes.md"])
def test_the_programs_that_speak_to_a_server_print_what_their_page_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / name).read_text()
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 10
    monkeypatch.chdir(tmp_path)
    tenants = [{"name": tenant, "api_key": key} for tenant, key in CUSTOMERS.items()]
    write_config(tmp_path / "tenants.yaml", {"tenants": tenants})
    names: dict[str, object] = {"__name__": "page"}
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        for language, block in blocks:
            if language == "python":
                exec(block.replace("http://localhost:8080", server.url), names)
            else:
                assert capsys.readouterr().out == block
    customers = names.get("customers", {})
    assert isinstance(customers, dict)
    for value in (*names.values(), *customers.values()):
        if isinstance(value, (Client, sqlite3.Connection)):
            value.close()
    assert capsys.readouterr().out == ""


def test_the_changelog_speaks_of_this_version_or_of_what_comes_next() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{ebus.__version__}]" in changelog
