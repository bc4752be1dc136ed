"""`ebus import`: store the events of a file at the positions that they have."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import BinaryIO

import click

from ebus.cli import places
from ebus.cli.failing import fail
from ebus.cli.places import TARGET_KEY, failures_told, open_place, progress_bar, report
from ebus.core.tenant import TenantName
from ebus.moving import BrokenFile, BrokenLine, Input, import_log


@click.command("import")
@click.argument("file")
@click.argument("target")
@click.option("--tenant", metavar="NAME", help="The tenant; it is made if it is not there.")
@places.first
@places.last
@places.target_key_file
@places.config_file
@places.quiet
def import_(
    file: str,
    target: str,
    tenant: str | None,
    start: int,
    stop: int | None,
    target_key_file: str | None,
    config_file: str | None,
    quiet: bool,
) -> None:
    """Store the events of FILE at the positions that its lines say.

    FILE is what `ebus export` writes, plain or zstd, or - for standard input; TARGET an engine
    (sqlite:data) or a server (http://host:8080). What is there already is compared, the rest is
    appended: after a crash, or once a broken line is mended, the same command goes on. Ends with
    status 1 when not all of it is stored, and says which line is to blame.
    """
    limits = places.limits_of(config_file)
    with ExitStack() as stack:
        stack.enter_context(failures_told())
        opened: BinaryIO = sys.stdin.buffer
        if file != "-":
            opened = stack.enter_context(open(file, "rb"))
        engine = stack.enter_context(open_place(target, target_key_file, TARGET_KEY, limits))
        if tenant is None and not places.is_server(target):
            fail("which tenant? Say --tenant")
        name = (
            places.name_in(engine, target, tenant)
            if places.is_server(target)
            else TenantName(str(tenant))
        )
        size = None if file == "-" else os.fstat(opened.fileno()).st_size
        progress = stack.enter_context(progress_bar(name, size, quiet=quiet))
        try:
            lines = Input(opened, name=file, read_bytes=progress)
            moved = import_log(lines, engine.open(name), start=start, stop=stop)
        except BrokenLine as error:
            stored = engine.open(name).head()
            fail(
                f"{file}: {error}\nStored up to position {stored}, nothing of what was read with "
                "that line. Mend it and import the same file again."
            )
        except BrokenFile as error:
            fail(f"{file}: {error}")
        report(name, moved, new="stored now", quiet=quiet)
