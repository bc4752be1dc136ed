"""The command `ebus`. One file a command; this one only puts them together."""

from __future__ import annotations

import click

import ebus
from ebus.cli.backup import backup
from ebus.cli.check import check
from ebus.cli.copy import copy
from ebus.cli.export import export
from ebus.cli.import_ import import_
from ebus.cli.keygen import keygen
from ebus.cli.restore import restore
from ebus.cli.serve import serve
from ebus.cli.tenant import tenant
from ebus.cli.verify import verify


class _ServeUnlessTold(click.Group):
    """`ebus -config F` is short for `ebus serve --config F`, and `ebus` for `ebus serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own_options = {"-h", "--help", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own_options):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ServeUnlessTold, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ebus.__version__, prog_name="ebus")
def main() -> None:
    """ebus is a multi-tenant event store.

    Without a command it serves: `ebus -config tenants.yaml` serves the tenants of a config
    file, and `API_KEY=... ebus` a single tenant.
    """


main.add_command(serve)
main.add_command(check)
main.add_command(keygen)
main.add_command(backup)
main.add_command(restore)
main.add_command(verify)
main.add_command(export)
main.add_command(import_)
main.add_command(copy)
main.add_command(tenant)
