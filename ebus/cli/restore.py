"""`ebus restore`: put copies of tenants back in their places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ebus.cli.copies import Place, Report, asked_for, configured, options_of_all, plural
from ebus.cli.failing import fail
from ebus.core.backup_directory import BackupDirectory, Entry
from ebus.core.errors import EbusError, StoreBusy, StoreRefused
from ebus.core.tenant import TenantName
from ebus.tenants.claim import Claim
from ebus.tenants.copying import put_back


@click.command()
@click.option(
    "--from",
    "from_",
    metavar="DIR",
    required=True,
    help="The directory of the backup.",
)
@options_of_all
@click.option("--overwrite", is_flag=True, help="Put the copies in the place of what is there.")
@click.option(
    "--even-if-open",
    is_flag=True,
    help="Also where a server has a tenant open; it refuses to append until it is restarted.",
)
def restore(
    from_: str,
    config_file: str | None,
    tenants: tuple[str, ...],
    quiet: bool,
    overwrite: bool,
    even_if_open: bool,
) -> None:
    """Restore every tenant of a backup, or some, to where the config says that the data is.

    All digests are checked first, and all files copied, before the first tenant is put in its
    place; until then nothing has changed. What is there already stays unless you say --overwrite,
    and so does what a running server has open.

    Ends with status 1 when something could not be restored.
    """
    asked = asked_for(tenants)
    with configured(config_file) as place:
        try:
            with BackupDirectory.reading(Path(from_)) as directory:
                entries = _chosen(directory, asked, place)
                registry = None if asked else directory.manifest.registry
                _check(directory, entries, registry, quiet=quiet)
                with _claimed(place, registry, overwrite=overwrite) as path:
                    _restore(
                        place,
                        directory,
                        entries,
                        overwrite=overwrite,
                        even_if_open=even_if_open,
                        quiet=quiet,
                    )
                    if path is not None and registry is not None:
                        put_back(directory.file(registry), path)
        except EbusError as error:
            fail(f"Nothing was restored: {error}")


def _chosen(
    directory: BackupDirectory, asked: list[TenantName], place: Place
) -> dict[TenantName, Entry]:
    manifest = directory.manifest
    if manifest.engine != place.name:
        fail(
            f"Nothing was restored: {directory.path} is a backup of the engine "
            f"{manifest.engine}, and the config says {place.name}"
        )
    unknown = [name for name in asked if name not in manifest.tenants]
    if unknown:
        fail(f"Nothing was restored: {directory.path} holds no tenant {', '.join(unknown)}")
    chosen = {
        name: manifest.tenants[name]
        for name in directory.names()
        if (name in asked if asked else not manifest.tenants[name].is_gone)
    }
    if not chosen and (asked or manifest.registry is None):
        fail(f"Nothing was restored: {directory.path} holds no tenants")
    return chosen


@contextmanager
def _claimed(place: Place, registry: Entry | None, *, overwrite: bool) -> Iterator[Path | None]:
    """Where the registry is to be put, while nobody else may change it; None for nowhere."""
    path = place.registry
    if registry is None or path is None:
        yield None
        return
    if path.exists() and not overwrite:
        raise StoreRefused(f"{path} is there already, and would be overwritten")
    claim = Claim.take(path.parent)
    if claim is None:
        raise StoreBusy(f"{path} is in use: stop the server that serves its tenants")
    try:
        yield path
    finally:
        claim.release()


def _check(
    directory: BackupDirectory,
    entries: dict[TenantName, Entry],
    registry: Entry | None,
    *,
    quiet: bool,
) -> None:
    """End the command unless every copy is the one that was made."""
    damaged = []
    copies: dict[str, Entry] = {str(name): entry for name, entry in entries.items()}
    if registry is not None:
        copies["the registry of tenants"] = registry
    total = sum(entry.size_bytes for entry in copies.values())
    with Report("Checking digests", total, quiet=quiet) as report:
        for name, entry in copies.items():
            try:
                directory.check(entry, progress=report.progress)
            except EbusError as error:
                damaged.append(f"{name}: {error}")
    if damaged:
        fail("\n".join(["Nothing was restored:", *damaged]))


def _restore(
    place: Place,
    directory: BackupDirectory,
    entries: dict[TenantName, Entry],
    *,
    overwrite: bool,
    even_if_open: bool,
    quiet: bool,
) -> None:
    total = sum(entry.size_bytes for entry in entries.values())
    left = list(entries)
    with Report("Restoring", total, quiet=quiet) as report:
        try:
            for name in place.engine.restore(
                {name: directory.file(entry) for name, entry in entries.items()},
                overwrite=overwrite,
                even_if_open=even_if_open,
                progress=report.progress,
            ):
                entry = entries[name]
                left.remove(name)
                report.say(
                    f"{name}: {plural(entry.events, 'event')} up to position {entry.position}, "
                    f"as of {entry.taken_at:%Y-%m-%d %H:%M:%S} UTC"
                )
        except EbusError as error:
            if len(left) == len(entries):
                raise
            fail(f"Not restored: {', '.join(left)}: {error}")
    if not quiet:
        click.echo(f"Restored {plural(len(entries), 'tenant')} from {directory.path}")
