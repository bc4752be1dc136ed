"""`ebus tenant`: tenants that are made and changed at run time, with a server or without one."""

from __future__ import annotations

import sys
from typing import Any, get_args

import click

from ebus.cli.copies import size
from ebus.cli.failing import fail
from ebus.cli.tenant_output import print_json, row, short, show_key, show_tenant, table
from ebus.cli.tenant_place import Where, told_where
from ebus.config import Scope

_SERVERS_OWN = "server"


@click.group()
def tenant() -> None:
    """Make, list, suspend, change and delete tenants.

    They are kept in a registry beside the data, next to those of the config file. While a server
    runs it is asked to do it, with its admin key; else it is done directly. Ends with status 1
    when it could not be done.
    """


def _limits(limits: tuple[str, ...]) -> dict[str, float | None]:
    """NAME=VALUE each; without a value one is removed."""
    found: dict[str, float | None] = {}
    for limit in limits:
        name, equals, value = limit.partition("=")
        try:
            found[name] = (float(value) if "." in value else int(value)) if value else None
        except ValueError:
            equals = ""
        if not equals:
            fail("--limit is like max_stored_events=1000000; with nothing behind = it is removed")
    return found


_scope = click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default="both",
    show_default=True,
    help="What the key may do.",
)
_key_name = click.option("--key-name", metavar="NAME", help="What the key is called.")
_limit = click.option(
    "--limit",
    "limits",
    metavar="NAME=VALUE",
    multiple=True,
    help="Such as max_stored_events=1000000; may be given more than once.",
)
_confirm = click.option("--confirm", metavar="NAME", help="The tenant's name once more.")


@tenant.command()
@click.argument("name")
@_scope
@_key_name
@_limit
@click.option("--durability", type=click.Choice(["full", "normal"]), help="Its own durability.")
@told_where
def create(
    name: str,
    scope: str,
    key_name: str | None,
    limits: tuple[str, ...],
    durability: str | None,
    where: Where,
) -> None:
    """Make a tenant, and print its key, which cannot be shown again."""
    wanted = {"scope": scope, "key_name": key_name, "durability": durability}
    with where.tenants() as tenants:
        made = tenants.create(name, {**wanted, "limits": _limits(limits)})
    show_key(f"Tenant {name} is made", made, as_json=where.as_json)


@tenant.command(name="list")
@click.option("--prefix", metavar="TEXT", default="", help="Only names that begin so.")
@told_where
def list_(
    prefix: str,
    where: Where,
) -> None:
    """List the tenants of the registry and of the config file."""
    with where.tenants() as tenants:
        found = tenants.list(prefix)
    if where.as_json:
        print_json({"tenants": found, "count": len(found)})
        return
    rows = [("TENANT", "STATE", "SOURCE", "KEYS", "DURABILITY", "LIMITS", "CREATED")]
    table(rows + [row(it) for it in found])


@tenant.command()
@click.argument("name")
@told_where
def show(name: str, where: Where) -> None:
    """Show a tenant and what its keys are called."""
    with where.tenants() as tenants:
        show_tenant(tenants.show(name), as_json=where.as_json)


@tenant.command()
@click.argument("name")
@told_where
def suspend(name: str, where: Where) -> None:
    """Let nobody in with a key of this tenant, until it is resumed."""
    with where.tenants() as tenants:
        show_tenant(tenants.set_state(name, "suspended"), as_json=where.as_json)


@tenant.command()
@click.argument("name")
@told_where
def resume(name: str, where: Where) -> None:
    """Let the keys of a suspended tenant in again."""
    with where.tenants() as tenants:
        show_tenant(tenants.set_state(name, "active"), as_json=where.as_json)


@tenant.command(name="set")
@click.argument("name")
@_limit
@click.option(
    "--durability",
    type=click.Choice(["full", "normal", _SERVERS_OWN]),
    help=f"Its own durability, or that of the {_SERVERS_OWN}.",
)
@told_where
def set_(
    name: str,
    limits: tuple[str, ...],
    durability: str | None,
    where: Where,
) -> None:
    """Change limits and durability of a tenant."""
    patch: dict[str, Any] = {"limits": _limits(limits)}
    if durability is not None:
        patch["durability"] = None if durability == _SERVERS_OWN else durability
    with where.tenants() as tenants:
        show_tenant(tenants.change(name, patch), as_json=where.as_json)


@tenant.command()
@click.argument("name")
@_key_name
@_scope
@click.option("--expires-at", metavar="MOMENT", help="When it ends: 2027-01-31T00:00:00Z.")
@told_where
def add_key(
    name: str,
    key_name: str | None,
    scope: str,
    expires_at: str | None,
    where: Where,
) -> None:
    """Make one more key of a tenant, and print it."""
    wanted = {"name": key_name, "scope": scope, "expires_at": expires_at}
    with where.tenants() as tenants:
        made = tenants.add_key(name, wanted)
    show_key(f"Tenant {name} has one more key", made, as_json=where.as_json)


@tenant.command()
@click.argument("name")
@click.option("--key-name", metavar="NAME", help="Which key is replaced.  [default: all]")
@click.option(
    "--overlap",
    metavar="DURATION",
    default="24h",
    show_default=True,
    help="How long the old key goes on; 0s ends it at once.",
)
@told_where
def rotate_key(
    name: str,
    key_name: str | None,
    overlap: str,
    where: Where,
) -> None:
    """Make a new key of a tenant, and print it; the old one ends after the overlap."""
    with where.tenants() as tenants:
        made = tenants.rotate_key(name, {"key_name": key_name, "overlap": overlap})
    show_key(f"Tenant {name} has a new key", made, as_json=where.as_json)


@tenant.command()
@click.argument("name")
@click.argument("key")
@told_where
def revoke_key(
    name: str,
    key: str,
    where: Where,
) -> None:
    """Let the key of this name open nothing from now on."""
    with where.tenants() as tenants:
        show_tenant(tenants.revoke_key(name, key), as_json=where.as_json)


@tenant.command()
@click.argument("name")
@_confirm
@told_where
def delete(
    name: str,
    confirm: str | None,
    where: Where,
) -> None:
    """Delete a suspended tenant. Its data goes to the trash, until it is purged."""
    with where.tenants() as tenants:
        deleted = tenants.delete(name, _confirmed(confirm, "the tenant's name"))
    if where.as_json:
        print_json(deleted)
    else:
        click.echo(f"Tenant {name} is deleted; its data is in the trash as {deleted['trash']}")


@tenant.command()
@told_where
def trash(where: Where) -> None:
    """List deleted tenants whose data is still there."""
    with where.tenants() as tenants:
        found = tenants.trash()
    if where.as_json:
        print_json({"trash": found})
        return
    rows = [(it["id"], it["tenant"], it["deleted_at"], size(it["size_bytes"])) for it in found]
    table([("ID", "TENANT", "DELETED", "SIZE"), *rows])


@tenant.command()
@click.argument("trash_id", metavar="ID")
@_confirm
@told_where
def purge(
    trash_id: str,
    confirm: str | None,
    where: Where,
) -> None:
    """Delete for good what is in the trash under ID."""
    with where.tenants() as tenants:
        tenants.purge(trash_id, _confirmed(confirm, "the tenant's name"))
    if where.as_json:
        print_json({"purged": trash_id})
    else:
        click.echo(f"{trash_id} is gone for good")


@tenant.command()
@click.option("--tenant", "name", metavar="NAME", help="Only changes of this tenant.")
@click.option(
    "--last",
    "limit",
    type=click.IntRange(1, 1_000),
    default=100,
    show_default=True,
    metavar="N",
    help="The last so many.",
)
@told_where
def audit(
    name: str | None,
    limit: int,
    where: Where,
) -> None:
    """Tell who changed what, the newest first."""
    with where.tenants() as tenants:
        entries = tenants.audit(limit=limit, tenant=name)
    if where.as_json:
        print_json({"audit": entries})
        return
    rows = [("ID", "AT", "WHO", "HOW", "ACTION", "TENANT", "WHAT")]
    for it in entries:
        what = " ".join(f"{key}={short(value)}" for key, value in it["what"].items())
        row = (str(it["id"]), it["at"], it["who"], it["how"], it["action"], it["tenant"], what)
        rows.append(row)
    table(rows)


def _confirmed(confirm: str | None, what: str) -> str:
    if confirm is None and sys.stdin.isatty():
        return str(click.prompt(f"Repeat {what} to confirm", default="", show_default=False))
    return confirm or ""
