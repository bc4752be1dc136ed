"""`ebus verify`: look through live data or a backup for damage."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from ebus.cli.copies import (
    Place,
    Report,
    asked_for,
    configured,
    engine_by_name,
    options_of_all,
    plural,
)
from ebus.cli.failing import fail
from ebus.core.backup import Verification, differences
from ebus.core.backup_directory import BackupDirectory
from ebus.core.errors import EbusError
from ebus.core.tenant import TenantName
from ebus.tenants.copying import problems_of


@click.command()
@click.option(
    "--backup",
    "backup_dir",
    metavar="DIR",
    help="Look through this backup, not through the data of the config.",
)
@options_of_all
def verify(
    backup_dir: str | None, config_file: str | None, tenants: tuple[str, ...], quiet: bool
) -> None:
    """Look through every tenant, or some, or a backup of them, while the server runs.

    Checks that SQLite finds every file whole, that events are numbered without gaps or overlaps,
    and that ids, streams, types and consumers are what the events say; of a backup also that
    digests, positions and checkpoints are those of its manifest. Changes nothing.

    Ends with status 1 when something is wrong.
    """
    asked = asked_for(tenants)
    try:
        if backup_dir is None:
            with configured(config_file) as place:
                status = _verify_tenants(place, asked, quiet=quiet)
        else:
            with BackupDirectory.reading(Path(backup_dir)) as directory:
                with engine_by_name(directory.manifest.engine) as place:
                    status = _verify_backup(place, directory, asked, quiet=quiet)
    except EbusError as error:
        fail(str(error))
    sys.exit(status)


def _verify_tenants(place: Place, asked: list[TenantName], *, quiet: bool) -> int:
    names = asked or list(place.tenants())
    registry = None if asked or place.registry is None else place.registry
    if registry is not None and not registry.exists():
        registry = None
    if not names and registry is None:
        fail("There is no tenant at all where the config says that the data is")
    sizes = {name: place.engine.copied_bytes(name) for name in names}
    bad = 0
    with Report("Verifying", sum(sizes.values()), quiet=quiet) as report:
        for name in names:
            with report.part(sizes[name]):
                found = place.engine.verify(name, progress=report.progress)
            bad += _tell(name, found, report)
        if registry is not None:
            try:
                wrong = problems_of(registry)
            except EbusError as error:
                wrong = [str(error)]
            bad += _tell_of_registry(wrong, report)
    return _sum_up(len(names), bad, quiet=quiet)


def _verify_backup(
    place: Place, directory: BackupDirectory, asked: list[TenantName], *, quiet: bool
) -> int:
    entries = directory.manifest.tenants
    names = asked or directory.names()
    unknown = [name for name in names if name not in entries]
    if unknown or not (names or directory.manifest.registry):
        fail(f"{directory.path} holds no tenant {', '.join(unknown) or 'at all'}")
    bad = 0
    total = 2 * sum(entries[name].size_bytes for name in names)
    with Report("Verifying", total, quiet=quiet) as report:
        for name in names:
            entry = entries[name]
            with report.part(2 * entry.size_bytes):
                try:
                    directory.check(entry, progress=report.progress)
                    file = directory.file(entry)
                    found = place.engine.verify(name, file, progress=report.progress)
                except EbusError as error:
                    found = Verification(None, [str(error)])
                if found.snapshot is not None:
                    differs = differences(found.snapshot, entry.snapshot)
                    found = msgspec.structs.replace(found, problems=found.problems + differs)
            bad += _tell(name, found, report)
        if not asked and directory.manifest.registry is not None:
            wrong = []
            try:
                directory.check(directory.manifest.registry)
            except EbusError as error:
                wrong = [str(error)]
            bad += _tell_of_registry(wrong, report)
    return _sum_up(len(names), bad, quiet=quiet)


def _tell_of_registry(problems: list[str], report: Report) -> bool:
    for problem in problems:
        report.complain(f"the registry of tenants: DAMAGED: {problem}")
    if not problems:
        report.say("the registry of tenants: whole")
    return bool(problems)


def _tell(name: str, found: Verification, report: Report) -> bool:
    for problem in found.problems:
        report.complain(f"{name}: DAMAGED: {problem}")
    now = found.snapshot
    if now is not None and not found.problems:
        report.say(f"{name}: whole, {plural(now.events, 'event')} up to position {now.position}")
    for note in found.notes:
        report.say(f"{name}: {note}")
    return bool(found.problems)


def _sum_up(count: int, bad: int, *, quiet: bool) -> int:
    if not quiet:
        click.echo(f"Verified {plural(count, 'tenant')}: " + (f"{bad} DAMAGED" if bad else "whole"))
    return int(bad > 0)
