"""`ebus keygen`: make an API key."""

from __future__ import annotations

import click

from ebus.config.api_key import digest_of, new_key


@click.command()
def keygen() -> None:
    """Make a strong API key, and print it with what the config file needs of it.

    Give the key to the client, and put the line with the SHA-256 in the config file. The key is
    kept nowhere: it cannot be shown again.
    """
    key = new_key()
    click.echo(f'api_key: "{key}"')
    click.echo(f'api_key_sha256: "{digest_of(key.encode()).hex()}"')
