"""`ebus keygen`: a key, and what the config file needs of it."""

from __future__ import annotations

import re
from hashlib import sha256

import yaml
from click.testing import CliRunner

from ebus.cli import main


def keygen() -> dict[str, str]:
    result = CliRunner().invoke(main, ["keygen"])
    assert result.exit_code == 0
    made: dict[str, str] = yaml.safe_load(result.output)
    return made


def test_a_key_and_its_digest_are_printed_as_the_config_file_takes_them() -> None:
    made = keygen()
    assert list(made) == ["api_key", "api_key_sha256"]
    assert re.fullmatch(r"ebus_[A-Za-z0-9_-]{43}", made["api_key"])
    assert made["api_key_sha256"] == sha256(made["api_key"].encode()).hexdigest()


def test_no_two_keys_are_alike() -> None:
    assert len({keygen()["api_key"] for _ in range(50)}) == 50
