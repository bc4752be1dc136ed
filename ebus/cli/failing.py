"""How a command ends that cannot do what it was asked to."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(message: str) -> NoReturn:
    """End with status 1 and the reason on standard error."""
    click.echo(message, err=True)
    sys.exit(1)
