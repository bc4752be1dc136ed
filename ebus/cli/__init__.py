"""The command `ebus`. One file a command; this one only finds them.

A command's module is imported when it is needed: what serves takes a third of a second to load,
and `ebus keygen` has no use for it.
"""

from __future__ import annotations

from importlib import import_module

import click

import ebus

_IN_OTHER_MODULES = {"import": "import_"}
"""A command is in the module of its own name, unless that is no name in Python."""

_COMMANDS = (
    "backup",
    "check",
    "copy",
    "export",
    "import",
    "keygen",
    "restore",
    "serve",
    "tenant",
    "verify",
)


class _Commands(click.Group):
    """`ebus -config F` is short for `ebus serve --config F`, and `ebus` for `ebus serve`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name = _IN_OTHER_MODULES.get(cmd_name, cmd_name)
        command: click.Command = getattr(import_module(f"ebus.cli.{name}"), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own_options = {"-h", "--help", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own_options):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ebus.__version__, prog_name="ebus")
def main() -> None:
    """ebus is a multi-tenant event store.

    Without a command it serves: `ebus -config tenants.yaml` serves the tenants of a config
    file, and `API_KEY=... ebus` a single tenant.
    """
