"""`ebus copy`: copy tenants from one engine or server to another."""

from __future__ import annotations

import click

from ebus.cli import places
from ebus.cli.copy_rounds import Following, ending
from ebus.cli.failing import fail
from ebus.cli.places import SOURCE_KEY, TARGET_KEY, failures_told, open_place


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
@click.option("--follow", is_flag=True, help="Go on copying what comes, until SIGINT; then finish.")
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
    follow: bool,
    no_checkpoints: bool,
    source_key_file: str | None,
    target_key_file: str | None,
    config_file: str | None,
    quiet: bool,
) -> None:
    """Copy the events of a tenant, positions and all, and its checkpoints; then read them back.

    SOURCE and TARGET are engines (sqlite:data) or servers (http://host:8080). What is there already
    is compared, the rest is appended: run it again to go on after a crash, or to catch up with a
    source that has grown. With --follow it catches up by itself: once nobody writes to SOURCE any
    more, Ctrl-C has it copy the rest, and end. Ends with status 1 when TARGET is not a true copy.
    """
    if takes_all and (tenant or renamed):
        fail("--all is without --tenant and --as")
    if takes_all and (places.is_server(source) or places.is_server(target)):
        fail("a key opens one tenant: with a server, copy one by one")
    if follow and stop is not None:
        fail("--follow goes on to the end: it is without --to")
    limits = places.limits_of(config_file)
    with (
        failures_told(),
        open_place(source, source_key_file, SOURCE_KEY, limits) as here,
        open_place(target, target_key_file, TARGET_KEY, limits) as there,
    ):
        name = None if takes_all else places.name_in(here, source, tenant)
        following = Following(
            here,
            there,
            name,
            renamed,
            start=start,
            stop=stop,
            checkpoints=not no_checkpoints,
            quiet=quiet,
        )
        with ending(is_wanted=follow) as end:
            following.run(end)
        if not following.count:
            fail("the source has no tenants")
        if failed := len(following.failed):
            several = f"{failed} of {following.count} tenants were not copied"
            fail(several if takes_all else "Not copied")
