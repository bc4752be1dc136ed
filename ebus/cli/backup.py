"""`ebus backup`: copy every tenant, or some, while the server runs."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import click

from ebus.cli.copies import Place, Report, asked_for, configured, options_of_all, plural, size
from ebus.cli.failing import fail
from ebus.core.backup_directory import BackupDirectory, Outcome
from ebus.core.errors import EbusError
from ebus.core.tenant import TenantName
from ebus.tenants.copying import copy_registry

NICE = 10
"""A server on the same machine comes first."""


@click.command()
@click.option(
    "--to",
    "to",
    metavar="DIR",
    required=True,
    help="The directory of the backup: one that is new, empty, or a backup already.",
)
@options_of_all
@click.option(
    "--prune",
    is_flag=True,
    help="Remove the copies of tenants that are there no more. Without it they stay.",
)
def backup(
    to: str, config_file: str | None, tenants: tuple[str, ...], quiet: bool, prune: bool
) -> None:
    """Back up every tenant, or some, while the server runs and writes go on.

    Each copy is a SQLite file of one moment, and manifest.json says what is in it. What has not
    changed since the last backup in the same directory is not copied again. Whatever happens, the
    last backup stays whole until the new one is.

    Ends with status 1 when a tenant could not be backed up; all others are.
    """
    asked = asked_for(tenants)
    os.nice(max(0, NICE - os.nice(0)))
    with configured(config_file) as place:
        try:
            with BackupDirectory.writing(Path(to), engine=place.name) as directory:
                status = _back_up(place, directory, asked, prune=prune, quiet=quiet)
        except EbusError as error:
            fail(f"Nothing was backed up: {error}")
    sys.exit(status)


def _back_up(
    place: Place,
    directory: BackupDirectory,
    asked: list[TenantName],
    *,
    prune: bool,
    quiet: bool,
) -> int:
    begun_s = time.monotonic()
    there, known = set(place.tenants()), set(directory.names())
    names = asked or sorted(there | known)
    unknown = [name for name in names if name not in there | known]
    registry = None if asked else place.registry
    if unknown or not (asked or there or (registry is not None and registry.exists())):
        fail(
            "Nothing was backed up: there is no tenant "
            + (", ".join(unknown) or "at all where the config says that the data is")
        )
    sizes = {name: place.engine.copied_bytes(name) for name in names}
    outcomes: list[Outcome] = []
    with Report("Backing up", sum(sizes.values()), quiet=quiet) as report:
        for name in names:
            with report.part(sizes[name]):
                outcomes.append(directory.back_up(place.engine, name, progress=report.progress))
            _tell(outcomes[-1], report)
        if registry is not None:
            # After the tenants: one that was made meanwhile has nothing yet, or little.
            outcomes.append(
                directory.back_up_registry(registry.name, partial(copy_registry, registry))
            )
            _tell(outcomes[-1], report)
        gone = directory.commit(outcomes, prunes=prune)
        for name in gone:
            stays = "its copy was removed" if prune else "its last copy stays"
            report.say(f"{name}: there no more, {stays}")
    _sum_up(outcomes, time.monotonic() - begun_s, directory, quiet=quiet)
    return int(any(outcome.error is not None for outcome in outcomes))


def _tell(outcome: Outcome, report: Report) -> None:
    entry = outcome.entry
    name = outcome.name or "the registry of tenants"
    if outcome.error is not None:
        stays = f"; its copy of {entry.taken_at:%Y-%m-%d %H:%M:%S} UTC stays" if entry else ""
        report.complain(f"{name}: not backed up: {outcome.error}{stays}")
    elif entry is not None and outcome.is_copied and outcome.name is None:
        report.say(f"{name}: {plural(entry.events, 'tenant')} and their keys' digests")
    elif entry is not None and outcome.is_copied:
        report.say(
            f"{name}: {plural(entry.events, 'event')} up to position {entry.position}, "
            f"{size(entry.size_bytes)}"
        )


def _sum_up(
    outcomes: list[Outcome], seconds: float, directory: BackupDirectory, *, quiet: bool
) -> None:
    good = [it for it in outcomes if it.error is None and it.entry is not None and it.name]
    copied = [outcome.entry for outcome in good if outcome.is_copied and outcome.entry]
    failed = sum(outcome.error is not None for outcome in outcomes)
    if not quiet:
        click.echo(
            f"Backed up {plural(len(good), 'tenant')} to {directory.path} in {seconds:.1f} s: "
            f"{len(copied)} copied ({size(sum(entry.size_bytes for entry in copied))}), "
            f"{len(good) - len(copied)} unchanged" + (f"; {failed} NOT BACKED UP" if failed else "")
        )
