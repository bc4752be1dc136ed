"""What a config file without mistakes comes to."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

import ebus
from ebus.config import (
    FILE_KEYS,
    Config,
    ConfigError,
    KeyConfig,
    TenantConfig,
    document,
    load_config,
)
from ebus.core.limits import Limits
from tests.config.tenants_yaml import LONG_KEY, ONE_TENANT, load, write

GUIDE = """\
# Directory for all tenant databases (optional, default: "data")
data_dir: "data"

# Define your tenants
tenants:
  - name: "alice"
    api_key: "alice-secret-key-123"

  - name: "bob"
    api_key: "bob-secret-key-456"

  - name: "charlie"
    api_key: "charlie-secret-key-789"
"""


def test_the_guides_first_file_loads(tmp_path: Path) -> None:
    config = load(tmp_path, GUIDE)
    assert [tenant.name for tenant in config.tenants] == ["alice", "bob", "charlie"]
    assert (config.engine, config.data_dir) == ("sqlite:data", "data")


def test_the_path_is_kept_as_the_user_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, GUIDE)
    monkeypatch.chdir(tmp_path)
    config = load_config("tenants.yaml", {})
    assert config.config_file == "tenants.yaml"
    assert not config.single_tenant


def test_of_a_key_only_the_digest_is_kept(tmp_path: Path) -> None:
    [alice] = load(tmp_path, ONE_TENANT).tenants
    assert alice == TenantConfig(
        name=ebus.TenantName("alice"), keys=(KeyConfig(digest=sha256(LONG_KEY.encode()).digest()),)
    )


def test_the_data_directory_is_data_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, ONE_TENANT).data_dir == "data"
    assert load(tmp_path, 'data_dir: "."\n' + ONE_TENANT).data_dir == "."


@pytest.mark.parametrize(
    ("lines", "engine", "data_dir"),
    [
        ("engine: sqlite", "sqlite:data", "data"),
        ("store_backend: sqlite", "sqlite:data", "data"),
        ("engine: memory", "memory:", "data"),
        ("engine: memory\ndata_dir: /srv", "memory:", "/srv"),
        ("engine: sqlite\ndata_dir: /srv/C:/data", "sqlite:/srv/C:/data", "/srv/C:/data"),
        ('engine: "sqlite:other"', "sqlite:other", "other"),
        ("engine: sqlite://host/path", "sqlite://host/path", "data"),
        ("engine: 'memory:'", "memory:", "data"),
    ],
)
def test_an_engine_is_a_name_or_an_address(
    tmp_path: Path, lines: str, engine: str, data_dir: str
) -> None:
    config = load(tmp_path, f"{lines}\n{ONE_TENANT}")
    assert (config.engine, config.data_dir) == (engine, data_dir)
    assert config.warnings == ()


def test_a_data_directory_beside_an_address_gets_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, 'data_dir: a\nengine: "sqlite:b"\n' + ONE_TENANT)
    assert config.engine == "sqlite:b"
    assert config.warnings == ("data_dir is not used: engine names a place of its own",)


def test_durability_is_full_unless_the_file_or_the_tenant_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, ONE_TENANT).durability == "full"
    config = load(tmp_path, "durability: normal\n" + ONE_TENANT + "    durability: full\n")
    assert config.durability == "normal"
    assert config.tenants[0].durability == "full"


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_every_limit_can_be_set(tmp_path: Path, name: str) -> None:
    config = load(tmp_path, f"limits: {{{name}: 7}}\n{ONE_TENANT}")
    assert config.limits == msgspec.structs.replace(Limits(), **{name: 7})


def test_limits_that_are_not_set_keep_their_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "limits: {}\n" + ONE_TENANT).limits == Limits()


def test_a_longer_limit_on_names_allows_longer_names_wherever_it_stands(tmp_path: Path) -> None:
    text = ONE_TENANT.replace("alice", "a" * 120) + "limits: {max_tenant_name_chars: 120}"
    assert load(tmp_path, text).tenants[0].name == "a" * 120


def test_the_order_of_the_keys_does_not_matter(tmp_path: Path) -> None:
    text = f'tenants: [{{durability: normal, api_key: "{LONG_KEY}", name: alice}}]\ndata_dir: x'
    assert load(tmp_path, text).engine == "sqlite:x"


@pytest.mark.parametrize(
    "text",
    [
        "\N{BYTE ORDER MARK}" + ONE_TENANT,
        ONE_TENANT.replace("\n", "\r\n"),
        "---\n" + ONE_TENANT + "...\n",
        "%YAML 1.1\n---\n" + ONE_TENANT,
        "# größer\n" + ONE_TENANT,
        ONE_TENANT.replace("alice", "!!str alice"),
        ONE_TENANT.replace("alice", "&name alice"),
    ],
)
def test_yaml_may_be_written_in_many_ways(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).tenants == load(tmp_path, ONE_TENANT).tenants


def test_a_value_may_be_an_alias(tmp_path: Path) -> None:
    text = f"""\
durability: &mode normal
tenants:
  - {{name: alice, api_key: "{LONG_KEY}", durability: *mode}}
"""
    assert load(tmp_path, text).tenants[0].durability == "normal"


@pytest.mark.parametrize("quoted", ['"123"', "'on'", '"null"', '"2024-01-01"', '"007"'])
def test_quoted_names_are_text_whatever_they_look_like(tmp_path: Path, quoted: str) -> None:
    [tenant] = load(tmp_path, ONE_TENANT.replace("alice", quoted)).tenants
    assert tenant.name == quoted[1:-1]


def test_a_key_may_hold_every_visible_character(tmp_path: Path) -> None:
    key = "".join(map(chr, range(0x21, 0x7F)))
    [tenant] = load(
        tmp_path, ONE_TENANT.replace(f'"{LONG_KEY}"', f"'{key.replace(chr(39), chr(39) * 2)}'")
    ).tenants
    assert tenant.keys == (KeyConfig(digest=sha256(key.encode()).digest()),)


def test_ten_thousand_tenants_load(tmp_path: Path) -> None:
    tenants = "".join(f"  - name: t{n}\n    api_key: {LONG_KEY}{n}\n" for n in range(10_000))
    assert len(load(tmp_path, "tenants:\n" + tenants).tenants) == 10_000


@pytest.mark.parametrize("text", [ONE_TENANT, "tenants: []"])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(tmp_path: Path, text: str, enabled: bool) -> None:
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with suppress(ConfigError):
            load(tmp_path, text)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_file_can_come_through_a_pipe() -> None:
    print_name = (
        "import sys; from ebus.config import load_config;"
        " print(load_config(sys.argv[1], {}).tenants[0].name)"
    )
    command = f"exec {sys.executable} -c '{print_name}' <(printf '%s' '{ONE_TENANT}')"
    bash = shutil.which("bash") or pytest.skip("there is no bash")
    done = subprocess.run([bash, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "alice\n"


def test_every_documented_key_is_accepted(tmp_path: Path) -> None:
    def below(section: str) -> list[str]:
        keys = [key.removeprefix(section) for key in FILE_KEYS if key.startswith(section)]
        return [key for key in keys if "." not in key]

    def numbers(section: str) -> dict[str, int]:
        return dict.fromkeys(below(section), 100)

    key = {"name": "a", "api_key_sha256": "0" * 64, "scope": "read", "expires_at": "2999-01-01"}
    assert [*key, "api_key"] == sorted(below("tenants.api_keys."), key=[*key, "api_key"].index)
    tenant = {
        "name": "alice",
        "api_key": LONG_KEY,
        "api_keys": [key],
        "durability": "full",
        "limits": numbers("tenant_limits."),
    }
    assert {*tenant, "api_key_sha256"} == {*below("tenants.")}
    top = {
        "data_dir": "x",
        "engine": "sqlite",
        "durability": "full",
        "limits": numbers("limits."),
        "tenant_limits": numbers("tenant_limits."),
        "tenants_visible": "own",
        "trusted_proxies": ["10.0.0.0/8"],
        "admin_key_sha256": "1" * 64,
        "admin_keys": [{"name": "anna", "api_key_sha256": "2" * 64}],
        "read_only": ["alice"],
        "watch_config": False,
        "tenants": [tenant],
    }
    assert {*top, "store_backend"} == {key for key in FILE_KEYS if "." not in key}
    assert load(tmp_path, msgspec.json.encode(top).decode())  # JSON is YAML


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o600, False), (0o400, False), (0o700, False), (0o640, True), (0o604, True), (0o620, True)],
)
def test_a_file_that_others_can_get_at_gets_a_warning(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    path = Path(write(tmp_path, ONE_TENANT))
    path.chmod(mode)
    assert load_config(str(path), {}).warnings == (
        (
            f"{path} holds API keys, and its mode {mode:o} lets other users of this machine "
            f"at it: chmod 600 {path}",
        )
        if warned
        else ()
    )


def test_the_chmod_of_a_warning_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    directory = tmp_path / "two words"
    directory.mkdir()
    path = Path(write(directory, ONE_TENANT))
    path.chmod(0o644)
    [warning] = load_config(str(path), {}).warnings
    assert warning.endswith(f"chmod 600 '{path}'")


def test_short_keys_get_one_warning_that_names_the_tenants(tmp_path: Path) -> None:
    [warning] = load(tmp_path, GUIDE).warnings
    assert warning == (
        "API keys of fewer than 32 characters are easier to guess: alice, bob, charlie; "
        "use long random ones, such as `ebus keygen` prints"
    )


def test_the_warning_of_short_keys_names_five_tenants_and_counts_the_others(
    tmp_path: Path,
) -> None:
    tenants = "".join(f"- {{name: t{n}, api_key: key-{n}}}\n" for n in range(8))
    [warning] = load(tmp_path, "tenants:\n" + tenants).warnings
    assert "t0, t1, t2, t3, t4 and 3 more;" in warning


def test_a_key_of_32_characters_is_long_enough(tmp_path: Path) -> None:
    assert len(LONG_KEY) == 32
    assert load(tmp_path, ONE_TENANT).warnings == ()


def test_both_loaders_of_pyyaml_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    def read() -> Config:
        return load(tmp_path, GUIDE)

    fast = read()
    monkeypatch.setattr(document, "LOADER", yaml.SafeLoader)
    assert read() == fast
