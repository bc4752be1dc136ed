"""How the commands on tenants answer: for people, or as JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec


def show_key(said: str, made: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    click.echo(f"{said}. This is key {made['key_name']}, which cannot be shown again:", err=True)
    click.echo(made["key"])


def show_tenant(found: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    names = ("tenant", "state", "source", "created_at", "durability")
    for name in names:
        click.echo(f"{name}: {short(found[name])}")
    for name, value in found["limits"].items():
        click.echo(f"{name}: {value}")
    for key in found["keys"]:
        end = f", until {key['expires_at']}" if key["expires_at"] else ""
        click.echo(f"key {key['name'] or '(without a name)'}: {key['scope']}{end}")


def row(found: Any) -> tuple[str, ...]:
    limits = " ".join(f"{name}={value}" for name, value in found["limits"].items())
    return (
        found["tenant"],
        found["state"],
        found["source"],
        str(len(found["keys"])),
        short(found["durability"]),
        limits or "-",
        short(found["created_at"]),
    )


def short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}:{it}" for name, it in value.items())
    return str(value)


def table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def print_json(document: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(document)))
