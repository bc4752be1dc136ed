"""`ebus copy`: copy tenants from one engine or server to another."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ebus.cli import places
from ebus.cli.failing import fail
from ebus.cli.places import (
    SOURCE_KEY,
    TARGET_KEY,
    failures_told,
    open_place,
    progress_bar,
    report,
)
from ebus.core.engine import Engine
from ebus.core.errors import EbusError
from ebus.core.tenant import TenantName
from ebus.moving import copy_log


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--tenant", metavar="NAME", help="The tenant.  [default: the only one there is]")
@click.option(
    "--as", "renamed", metavar="NAME", help="Its name at the target.  [default: the same]"
)
@click.option("--all", "takes_all", is_flag=True, help="Every tenant of the source.")
@places.first
@places.last
@click.option("--no-checkpoints", is_flag=True, help="Copy events only.")
@places.source_key_file
@places.target_key_file
@places.config_file
@places.quiet
def copy(
    source: str,
    target: str,
    tenant: str | None,
    renamed: str | None,
    takes_all: bool,
    start: int,
    stop: int | None,
    no_checkpoints: bool,
    source_key_file: str | None,
    target_key_file: str | None,
    config_file: str | None,
    quiet: bool,
) -> None:
    """Copy the events of a tenant, positions and all, and its checkpoints; then read them back.

    SOURCE and TARGET are engines (sqlite:data) or servers (http://host:8080). What is there already
    is compared, the rest is appended: run it again to go on after a crash, or to catch up with a
    source that has grown. Ends with status 1 when TARGET is not a true copy.
    """
    if takes_all and (tenant or renamed):
        fail("--all is without --tenant and --as")
    if takes_all and (places.is_server(source) or places.is_server(target)):
        fail("a key opens one tenant: with a server, copy one by one")
    limits = places.limits_of(config_file)
    with (
        failures_told(),
        open_place(source, source_key_file, SOURCE_KEY, limits) as here,
        open_place(target, target_key_file, TARGET_KEY, limits) as there,
    ):
        names: Sequence[TenantName]
        if takes_all:
            names = here.tenants()
            if not names:
                fail("the source has no tenants")
        else:
            names = [places.name_in(here, source, tenant)]
        failed = 0
        for name in names:
            try:
                _copy(
                    here,
                    there,
                    name,
                    TenantName(renamed or name),
                    start=start,
                    stop=stop,
                    checkpoints=not no_checkpoints,
                    quiet=quiet,
                )
            except EbusError as error:
                click.echo(f"{name}: {error}", err=True)
                failed += 1
        if failed:
            fail(f"{failed} of {len(names)} tenants were not copied" if takes_all else "Not copied")


def _copy(
    here: Engine,
    there: Engine,
    name: TenantName,
    renamed: TenantName,
    *,
    start: int,
    stop: int | None,
    checkpoints: bool,
    quiet: bool,
) -> None:
    source = here.open(name)
    head = source.head()
    with progress_bar(name, min(stop or head, head) - start + 1, quiet=quiet) as progress:
        moved = copy_log(
            source,
            there.open(renamed),
            start=start,
            stop=stop,
            checkpoints=checkpoints,
            progress=progress,
        )
    report(name, moved, new="stored now", quiet=quiet)
    source.close()
