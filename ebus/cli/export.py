"""`ebus export`: write a tenant's events into a file."""

from __future__ import annotations

import sys

import click

from ebus.cli import places
from ebus.cli.places import SOURCE_KEY, failures_told, open_place, progress_bar, report
from ebus.moving import FileOutput, StreamOutput, export_log


@click.command()
@click.argument("source")
@click.argument("file")
@click.option("--tenant", metavar="NAME", help="The tenant.  [default: the only one there is]")
@places.first
@places.last
@click.option("--zstd", is_flag=True, help="Compress.  [default: where FILE ends in .zst]")
@click.option("--checkpoints", is_flag=True, help="Write the checkpoints behind the events.")
@places.source_key_file
@places.config_file
@places.quiet
def export(
    source: str,
    file: str,
    tenant: str | None,
    start: int,
    stop: int | None,
    zstd: bool,
    checkpoints: bool,
    source_key_file: str | None,
    config_file: str | None,
    quiet: bool,
) -> None:
    """Write the events of a tenant into FILE, one a line, up to the last there is now.

    SOURCE is an engine (sqlite:data) or a server (http://host:8080), FILE a new file, or - for
    standard output. Until it is whole the file is named FILE.partial; after a crash or a full disk
    the same command goes on with it. Ends with status 1 when FILE was not written.
    """
    limits = places.limits_of(config_file)
    with failures_told(), open_place(source, source_key_file, SOURCE_KEY, limits) as engine:
        name = places.name_in(engine, source, tenant)
        store = engine.open(name)
        head = store.head()
        length = min(stop or head, head) - start + 1
        if file == "-":
            output = StreamOutput(sys.stdout.buffer, is_zstd=zstd)
            with progress_bar(name, length, quiet=quiet) as progress:
                moved = export_log(
                    store,
                    output,
                    start=start,
                    stop=stop,
                    checkpoints=checkpoints,
                    progress=progress,
                )
        else:
            with (
                FileOutput(file, is_zstd=zstd or None) as output_file,
                progress_bar(name, length, quiet=quiet) as progress,
            ):
                moved = export_log(
                    store,
                    output_file,
                    start=start,
                    stop=stop,
                    checkpoints=checkpoints,
                    progress=progress,
                )
        report(name, moved, new="written now", quiet=quiet, to_stderr=file == "-")
