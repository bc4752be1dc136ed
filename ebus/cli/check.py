"""`ebus check`: say what would be served, or what is wrong, without touching data."""

from __future__ import annotations

import os

import click

from ebus.cli.failing import fail
from ebus.config import Config, load_config
from ebus.core.address import shown
from ebus.core.engine import (
    Acknowledgement,
    Engine,
    Findings,
    SupportsAcknowledgement,
    look_at,
    open_engine,
)
from ebus.core.errors import EbusError
from ebus.tenants.merging import with_registered
from ebus.tenants.model import EMPTY
from ebus.tenants.place import read_registry


@click.command()
@click.option(
    "--config",
    "-config",
    "config_file",
    metavar="FILE",
    help="The config file to check. Without it: API_KEY and DB_PATH.",
)
def check(config_file: str | None) -> None:
    """Say what would be served, or everything that is wrong.

    Nothing is written, no database is opened for writing. Ends with status 1 when the server
    would not start.
    """
    try:
        config = load_config(config_file, os.environ)
        config = with_registered(config, read_registry(config) or EMPTY)
        engine = open_engine(config.engine, durability=config.durability, limits=config.limits)
    except EbusError as error:
        fail(str(error))
    with engine:
        findings = look_at(engine, (tenant.name for tenant in config.tenants))
        if findings.refusals:
            fail("\n".join(findings.refusals))
        try:
            acknowledgement = _acknowledgement(engine)
        except EbusError as error:
            fail(str(error))
    _describe(config, findings, acknowledgement)


def _acknowledgement(engine: Engine) -> Acknowledgement | None:
    """None where the engine cannot say what one is worth."""
    return engine.acknowledgement() if isinstance(engine, SupportsAcknowledgement) else None


def _describe(config: Config, findings: Findings, acknowledgement: Acknowledgement | None) -> None:
    count = len(config.tenants)
    click.echo(f"{config.config_file or 'API_KEY and DB_PATH'}: no mistakes")
    click.echo(f"Engine: {shown(config.engine)}, durability {config.durability}")
    if acknowledgement is not None:
        click.echo(f"What an acknowledgement is worth: {acknowledgement.worth}")
    click.echo(f"Port: {config.port}")
    click.echo(f"Tenants: {count}")
    for tenant in config.tenants:
        durability = f", durability {tenant.durability}" if tenant.durability else ""
        source = ", in the registry" if tenant.is_registered else ""
        state = ", suspended" if tenant.is_suspended else ""
        state += ", read-only" if config.is_read_only(tenant.name) else ""
        found = findings.tenants.get(tenant.name, "new")
        click.echo(f"  {tenant.name}: {found}{durability}{source}{state}")
    of_engine = () if acknowledgement is None else acknowledgement.warnings
    for warning in (*config.warnings, *of_engine):
        click.echo(f"WARNING: {warning}", err=True)
