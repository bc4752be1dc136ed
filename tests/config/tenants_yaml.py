"""A tenants.yaml made for one test, loaded or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebus.config import Config, ConfigError, load_config

LONG_KEY = "0123456789abcdef0123456789abcdef"

ONE_TENANT = f"""\
tenants:
  - name: alice
    api_key: "{LONG_KEY}"
"""


def write(directory: Path, text: str | bytes) -> str:
    """The path of a config file with this text that only its owner can read."""
    path = directory / "tenants.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return str(path)


def load(directory: Path, text: str | bytes, **environment: str) -> Config:
    return load_config(write(directory, text), environment)


def refusal(directory: Path, text: str | bytes, **environment: str) -> ConfigError:
    """The error with which this text is refused."""
    with pytest.raises(ConfigError) as caught:
        load(directory, text, **environment)
    return caught.value


def mistakes(directory: Path, text: str | bytes, **environment: str) -> list[str]:
    """Every mistake as it is printed, but without the directory."""
    error = refusal(directory, text, **environment)
    return [str(mistake).replace(f"{directory}/", "") for mistake in error.mistakes]
