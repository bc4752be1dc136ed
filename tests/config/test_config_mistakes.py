"""What is wrong with a config file, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ebus import engine_names
from ebus.config import ConfigError, Mistake, document, load_config
from ebus.core.errors import EbusError
from tests.config.tenants_yaml import LONG_KEY, ONE_TENANT, mistakes, refusal

KEY = f'api_key: "{LONG_KEY}"'
KNOWN = ", ".join(engine_names())
BOB = f'  - name: bob\n    api_key: "b{LONG_KEY}"\n'


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def each_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(document, "LOADER", getattr(yaml, request.param))


# Whole messages, word for word


def test_a_missing_file_is_answered_as_in_the_guide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "missing.yaml"), {})
    assert str(caught.value) == (
        "Failed to load tenants config: read config file: no such file or directory"
    )


def test_one_mistake_stands_in_the_first_line(tmp_path: Path) -> None:
    text = f"""\
tenants:
  - name: "alice"
    {KEY}
  - name: "bob"
    {KEY}
"""
    assert str(refusal(tmp_path, text)) == (
        f"Failed to load tenants config: {tmp_path}/tenants.yaml:5: "
        "duplicate API key for tenant: bob; give every tenant a key of its own"
    )


def test_several_mistakes_have_a_line_each_by_line_and_the_environments_last(
    tmp_path: Path,
) -> None:
    text = f"""\
tenant: []
durability: fast
tenants:
  - name: alice
    {KEY}
  - name: alice
    api_key: ""
"""
    error = refusal(tmp_path, text, PORT="x", IDLE_TIMEOUT="1")
    first, *lines = str(error).replace(f"{tmp_path}/", "").splitlines()
    assert first == "Failed to load tenants config: 6 mistakes"
    assert [line.split(" ")[0] for line in lines] == [
        "tenants.yaml:1:",
        "tenants.yaml:2:",
        "tenants.yaml:6:",
        "tenants.yaml:7:",
        "PORT:",
        "IDLE_TIMEOUT:",
    ]


def test_an_error_knows_its_mistakes_and_its_code(tmp_path: Path) -> None:
    error = refusal(tmp_path, ONE_TENANT + "tenant: x\n")
    assert issubclass(ConfigError, EbusError)
    assert error.code == "config_error"
    where = f"{tmp_path}/tenants.yaml:4"
    assert error.mistakes == (Mistake(where, "unknown key tenant; did you mean tenants?"),)


def test_the_environments_mistakes_are_told_even_when_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "missing.yaml"), {"PORT": "x"})
    assert [mistake.where for mistake in caught.value.mistakes] == ["", "PORT"]


# Files that cannot be read


def unreadable(path: str) -> str:
    """The reason why the file cannot be read."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    before, _, reason = str(caught.value).partition("read config file: ")
    assert before == "Failed to load tenants config: "
    return reason


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert unreadable(str(tmp_path)) == "is a directory"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "no such file or directory"),
        ("a\0b", "no such file or directory"),
        ("\udc80\ud800", "no such file or directory"),
        ("x" * 5000, "file name too long"),
        ("/dev/null/tenants.yaml", "not a directory"),
    ],
)
def test_a_path_that_cannot_be_opened_is_answered_with_the_systems_reason(
    path: str, reason: str
) -> None:
    assert unreadable(path) == reason


def test_a_file_without_permission_is_answered_with_the_systems_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("builtins.open", refuse)
    assert unreadable(str(tmp_path / "x")) == "permission denied"


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert unreadable(str(path)) == "larger than 16777216 bytes"


# Files that are no YAML mapping

EMPTY = 'tenants.yaml:1: the file is empty; write `tenants: [{name: "alice", api_key: "…"}]`'


@pytest.mark.usefixtures("each_loader")
@pytest.mark.parametrize("text", ["", "\n\n", "# tenants:\n", "---\n", "\N{BYTE ORDER MARK}"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text) == [EMPTY]


@pytest.mark.parametrize(
    ("text", "kind"), [("- a", "a list"), ("a", "text"), ("12", "a number"), ("~", "nothing")]
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, kind: str) -> None:
    [mistake] = mistakes(tmp_path, f"# a comment\n{text}\n")
    assert mistake == (
        f"tenants.yaml:2: the file must be a mapping, not {kind}; "
        'write `tenants: [{name: "alice", api_key: "…"}]`'
    )


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    text = ONE_TENANT.encode() + "# größer".encode("latin-1")
    [mistake] = mistakes(tmp_path, text)
    assert mistake == "tenants.yaml:4: not UTF-8; save the file as UTF-8"


def test_a_file_in_utf16(tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path, ONE_TENANT.encode("utf-16"))
    assert mistake == "tenants.yaml:1: not UTF-8; save the file as UTF-8"


@pytest.mark.usefixtures("each_loader")
@pytest.mark.parametrize("character", ["\0", "\x07", "\x7f", "\x80", "\ufffe"])
def test_a_control_character(tmp_path: Path, character: str) -> None:
    [mistake] = mistakes(tmp_path, ONE_TENANT + f"# {character}")
    assert mistake == "tenants.yaml:4: a control character, which YAML does not allow; remove it"


@pytest.mark.usefixtures("each_loader")
@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("a: 1\n---\nb: 2\n", 2, "a second YAML document begins here"),
        ("a: 1\nb: *unknown\n", 2, "quote a value that begins with *"),
        ("a: 1\nb: *\n", 2, "quote a value that begins with *"),
        ("a: 1\nb: & x\n", 2, "quote a value that begins with &"),
        ("a: &x 1\nb: &x 2\n", 2, "quote a value that begins with &"),
        ("a: 1\nb: !x!y z\n", 2, "quote a value that begins with !"),
        ("a: 1\nb: !<x\n", 2, "quote a value that begins with !"),
        ("a: 1\nb: @x\n", 2, "indent with spaces, not tabs; quote a value with @ ` or %"),
        ("a:\n\tb: 1\n", 2, "indent with spaces, not tabs"),
        ("a: 1\nb: |x\n", 2, "quote a value that begins with | or >"),
        ("a: 1\nb: 'c\nd: 2\n", 2, "a quotation mark is opened here and never closed"),
        ("a: 1\nb: [c\nd: 2\n", 2, "a [ or { is opened here and never closed"),
        ("a: 1\nb: {c: 1\nd: 2\n", 2, "a [ or { is opened here and never closed"),
        ('a: 1\nb: "\\q"\n', 2, "write a backslash twice"),
        ('a: 1\nb: "\\xq"\n', 2, "write a backslash twice"),
        ("a: 1\nb: c: d\n", 2, "a colon is out of place"),
        ("a: 1\n b: 2\n", 2, "a colon is out of place"),
        ("a:1\nb: 2\n", 2, "a colon is out of place"),
        ("- a\nb: 2\n", 2, "this does not fit the lines above"),
        ('a: 1\nb: "c" d\n', 2, "this does not fit the lines above"),
        ("  a: 1\n b: 2\n", 2, "this does not fit the lines above"),
    ],
)
def test_a_syntax_error(tmp_path: Path, text: str, line: int, advice: str) -> None:
    [mistake] = mistakes(tmp_path, text)
    assert mistake.startswith(f"tenants.yaml:{line}: not YAML: {advice}")


@pytest.mark.usefixtures("each_loader")
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
@pytest.mark.parametrize("depth", [33, 100_000])
def test_a_file_that_nests_too_deeply(tmp_path: Path, opening: str, depth: int) -> None:
    [mistake] = mistakes(tmp_path, "# deep\n" + opening * depth)
    assert mistake == "tenants.yaml:2: nested more than 32 levels deep; no setting is"


@pytest.mark.usefixtures("each_loader")
@pytest.mark.parametrize("text", ["&a [*a]", "tenants: &a [*a]", "&a {limits: *a, tenants: [*a]}"])
def test_an_alias_that_leads_back_to_itself_is_just_a_mistake(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)


# Keys


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data-dir: x", "unknown key data-dir; did you mean data_dir?"),
        ("Tenants: x", "unknown key Tenants; did you mean tenants?"),
        ("datadir: x", "unknown key datadir; did you mean data_dir?"),
        ("limit: {}", "unknown key limit; did you mean limits?"),
        ("port: 8080", "unknown key port: it is set in the environment, as PORT"),
        ("max_body_bytes: 1", "unknown key max_body_bytes: it belongs below `limits:`"),
        ("<<: {}", "unknown key <<: merging is not supported, write the keys out"),
        (
            "name: alice",
            "unknown key name: it belongs to a tenant, indented like the tenant's other keys",
        ),
        (
            "retention: 1",
            "unknown key retention; "
            "known here are data_dir, engine, store_backend, durability, limits, "
            "tenant_limits, read_only, tenants_visible, trusted_proxies, admin_key_sha256, "
            "admin_keys, watch_config, tenants",
        ),
        (
            "? [a, b]\n: 1",
            "unknown key; "
            "known here are data_dir, engine, store_backend, durability, limits, "
            "tenant_limits, read_only, tenants_visible, trusted_proxies, admin_key_sha256, "
            "admin_keys, watch_config, tenants",
        ),
    ],
)
def test_an_unknown_key(tmp_path: Path, line: str, said: str) -> None:
    assert mistakes(tmp_path, f"{ONE_TENANT}{line}\n") == [f"tenants.yaml:4: {said}"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("durabilty: full", "unknown key durabilty; did you mean durability?"),
        ("apikey: x", "unknown key apikey; did you mean api_key?"),
        (
            "colour: x",
            "unknown key colour; known here are name, api_key, api_key_sha256, api_keys, "
            "durability, limits",
        ),
    ],
)
def test_an_unknown_key_of_a_tenant(tmp_path: Path, key: str, said: str) -> None:
    assert mistakes(tmp_path, f"{ONE_TENANT}    {key}\n") == [f"tenants.yaml:4: {said}"]


def test_an_unknown_limit(tmp_path: Path) -> None:
    text = ONE_TENANT + "limits:\n  max_batch_event: 1\n"
    assert mistakes(tmp_path, text) == [
        "tenants.yaml:5: unknown key max_batch_event; did you mean max_batch_events?"
    ]


def test_a_colon_without_a_space(tmp_path: Path) -> None:
    text = f"tenants: [{{name: alice, api_key: {LONG_KEY}, durability=full}}]"
    assert mistakes(tmp_path, text) == [
        "tenants.yaml:1: unknown key; write a colon and a space after durability"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_dir: a\ndata_dir: b\n", "duplicate key data_dir: line 4 has it too; keep one"),
        ('data_dir: a\n"data_dir": a\n', "duplicate key data_dir: line 4 has it too; keep one"),
        ("limits: {}\nlimits: {}\n", "duplicate key limits: line 4 has it too; keep one"),
        (
            "engine: sqlite\nstore_backend: sqlite\n",
            "store_backend is the older name of engine; keep only engine",
        ),
    ],
)
def test_a_key_given_twice(tmp_path: Path, text: str, said: str) -> None:
    assert mistakes(tmp_path, ONE_TENANT + text) == [f"tenants.yaml:5: {said}"]


def test_a_tenants_key_given_twice(tmp_path: Path) -> None:
    assert mistakes(tmp_path, ONE_TENANT + "    name: bob\n") == [
        "tenants.yaml:4: duplicate key name: line 2 has it too; keep one"
    ]


# Values

WHOLE = "must be a whole number from 1 to 2147483647, in digits without quotes"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data_dir:", 'data_dir is empty; write `data_dir: "data"`'),
        ('data_dir: ""', 'data_dir is empty; write `data_dir: "data"`'),
        ('data_dir: " "', 'data_dir is empty; write `data_dir: "data"`'),
        ("data_dir: 7", 'data_dir is a number to YAML unless it is quoted; write `data_dir: "7"`'),
        ("data_dir: [a]", 'data_dir must be text, not a list; write `data_dir: "data"`'),
        ("data_dir: {a: b}", 'data_dir must be text, not a mapping; write `data_dir: "data"`'),
        (
            'data_dir: "a\\0b"',
            'data_dir must not hold line breaks or control characters; write `data_dir: "data"`',
        ),
        (
            "data_dir: ~",
            'data_dir is nothing to YAML unless it is quoted; write `data_dir: "data"`',
        ),
        (
            "data_dir: !path x",
            'data_dir is something with a tag to YAML unless it is quoted; write `data_dir: "x"`',
        ),
        (
            "data_dir: ~/data",
            "data_dir must be a full path or one relative to where ebus starts: "
            '~ is not expanded; write `data_dir: "data"`',
        ),
        ("durability: none", "durability must be full or normal; write `durability: full`"),
        ("durability: on", "durability must be full or normal; write `durability: full`"),
        ("durability: [full]", "durability must be full or normal; write `durability: full`"),
        ("durability:", "durability is empty; write `durability: full`"),
        ("engine:", "engine is empty; write `engine: sqlite`"),
        (
            "engine: sqlit",
            f"engine 'sqlit' is unknown; known are {KNOWN}; write `engine: sqlite`",
        ),
        (
            "engine: MEMORY",
            f"engine 'MEMORY' is unknown; known are {KNOWN}; write `engine: memory`",
        ),
        (
            "store_backend: postgres://user:password@host",
            f"store_backend 'postgres' is unknown; known are {KNOWN}; "
            "write `store_backend: sqlite`",
        ),
        (
            "store_backend: pebble",
            "store_backend is pebble, whose files only the original server can read: use sqlite, "
            "and replay the events from the old server over HTTP; write `store_backend: sqlite`",
        ),
        ("limits:", "limits is empty; write `limits: {max_read_events: 10000}`"),
        (
            "limits: [1]",
            "limits must be a mapping, not a list; write `limits: {max_read_events: 10000}`",
        ),
        (
            "limits: {max_read_events: 0}",
            f"max_read_events {WHOLE}; write `max_read_events: 10000`",
        ),
        (
            "limits: {max_read_events: }",
            "max_read_events is empty; write `max_read_events: 10000`",
        ),
    ],
)
def test_a_value_that_cannot_be_used(tmp_path: Path, line: str, said: str) -> None:
    assert mistakes(tmp_path, f"{ONE_TENANT}{line}\n") == [f"tenants.yaml:4: {said}"]


@pytest.mark.parametrize(
    "number",
    [
        *("-1", "+1", "1.0", "1e3", "0x10", "0b1", "010", "1_000", "1:30", '"1"', "'1'", "٣"),
        *("one", "yes", "null", "[1]", "{}", "1 KiB", "2147483648", "9" * 5000),
    ],
)
def test_a_limit_that_is_no_plain_whole_number(tmp_path: Path, number: str) -> None:
    text = f"{ONE_TENANT}limits:\n  max_type_chars: {number}\n"
    assert mistakes(tmp_path, text) == [
        f"tenants.yaml:5: max_type_chars {WHOLE}; write `max_type_chars: 255`"
    ]


# Tenants

SHAPE = 'write `tenants: [{name: "alice", api_key: "…"}]`'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_dir: x", f"tenants is missing; {SHAPE}"),
        ("tenants:", f"tenants is empty; {SHAPE}"),
        ("tenants: []", f"tenants is empty; {SHAPE}"),
        ("tenants: {}", f"tenants must be a list, not a mapping; {SHAPE}"),
        ("tenants: null", f"tenants must be a list, not nothing; {SHAPE}"),
        ("tenants: alice", f"tenants must be a list, not text; {SHAPE}"),
        ("tenants: {alice: {}}", f"tenants must be a list, not a mapping; {SHAPE}"),
        (
            "tenants: [alice]",
            'a tenant must be a mapping, not text; write `- {name: "alice", api_key: "…"}`',
        ),
        (
            "tenants: [~]",
            'a tenant must be a mapping, not nothing; write `- {name: "alice", api_key: "…"}`',
        ),
        ("tenants:\n-", 'a tenant is empty; write `- {name: "alice", api_key: "…"}`'),
    ],
)
def test_tenants_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    [mistake] = mistakes(tmp_path, text)
    assert mistake.partition(": ")[2] == said


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        ("{name: alice}", 'api_key is missing; write `api_key: "…"`'),
        (f"{{{KEY}}}", 'name is missing; write `name: "alice"`'),
        (f'{{name: "", {KEY}}}', 'name is empty; write `name: "alice"`'),
        (f"{{name: , {KEY}}}", 'name is empty; write `name: "alice"`'),
        ('{name: alice, api_key: ""}', 'api_key is empty; write `api_key: "…"`'),
        ("{name: alice, api_key: }", 'api_key is empty; write `api_key: "…"`'),
        ("{name: alice, api_key: [a]}", 'api_key must be text, not a list; write `api_key: "…"`'),
    ],
)
def test_a_tenant_without_name_or_key(tmp_path: Path, tenant: str, said: str) -> None:
    assert mistakes(tmp_path, f"tenants:\n- {tenant}") == [f"tenants.yaml:2: {said}"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("0123", "a number"),
        ("12345", "a number"),
        ("1.5", "a number"),
        ("1e5", "text"),
        ("on", "true or false"),
        ("yes", "true or false"),
        ("False", "true or false"),
        ("null", "nothing"),
        ("~", "nothing"),
        ("2024-01-01", "a date"),
        ("2024-01-01T00:00:00Z", "a date"),
        ("=", "something with a tag"),
        ("<<", "something with a tag"),
        ("!secret", "something with a tag"),
    ],
)
def test_a_key_that_yaml_does_not_read_as_text_has_to_be_quoted(
    tmp_path: Path, value: str, kind: str
) -> None:
    text = f"tenants:\n- name: alice\n  api_key: {value}\n"
    if kind == "text":
        text += "  api_key: x\n"
        said = "duplicate key api_key: line 3 has it too; keep one"
        assert mistakes(tmp_path, text) == [f"tenants.yaml:4: {said}"]
    else:
        said = f'api_key is {kind} to YAML unless it is quoted; write `api_key: "…"`'
        assert mistakes(tmp_path, text) == [f"tenants.yaml:3: {said}"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("123", 'name is a number to YAML unless it is quoted; write `name: "123"`'),
        ("on", 'name is true or false to YAML unless it is quoted; write `name: "on"`'),
        ("null", 'name is nothing to YAML unless it is quoted; write `name: "null"`'),
        ("2024-01-01", 'name is a date to YAML unless it is quoted; write `name: "2024-01-01"`'),
        ("[a]", 'name must be text, not a list; write `name: "alice"`'),
        ("../x", "'../x' is no tenant name: use 1 to 100 of the characters A-Z a-z 0-9 _ -"),
        ("a/b", "'a/b' is no tenant name: use 1 to 100 of the characters A-Z a-z 0-9 _ -"),
        ('"a\\n"', "'a\\n' is no tenant name: use 1 to 100 of the characters A-Z a-z 0-9 _ -"),
        ("größe", "'größe' is no tenant name: use 1 to 100 of the characters A-Z a-z 0-9 _ -"),
        (
            "a" * 101,
            f"'{'a' * 43}...' is no tenant name: it has 101 characters, at most 100 are allowed",
        ),
    ],
)
def test_a_name_that_is_none(tmp_path: Path, value: str, said: str) -> None:
    text = f"tenants:\n- name: {value}\n  {KEY}\n"
    assert mistakes(tmp_path, text) == [f"tenants.yaml:2: {said}"]


def test_a_name_beyond_a_limit_of_the_users_own(tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path, ONE_TENANT + "limits: {max_tenant_name_chars: 4}")
    assert mistake == (
        "tenants.yaml:2: 'alice' is no tenant name: it has 5 characters, at most 4 are allowed"
    )


@pytest.mark.parametrize("character", [" ", "\\n", "\\t", "\\x7f", "é", "€", "\\0", "\\u2028"])
@pytest.mark.parametrize("key", ["{}abc", "a{}bc", "abc{}"])
def test_a_key_that_cannot_travel_in_a_header(tmp_path: Path, character: str, key: str) -> None:
    text = f'tenants:\n- name: alice\n  api_key: "{key.format(character)}"\n'
    assert mistakes(tmp_path, text) == [
        "tenants.yaml:3: api_key holds a character that cannot travel in an HTTP header; "
        'use visible ASCII characters only, no spaces or line ends; write `api_key: "…"`'
    ]


def test_a_key_that_is_too_long_for_a_header(tmp_path: Path) -> None:
    text = f"tenants:\n- name: alice\n  api_key: {'k' * 4097}\n"
    assert mistakes(tmp_path, text) == [
        "tenants.yaml:3: api_key has 4097 characters, at most 4096 fit into an HTTP header; "
        'write `api_key: "…"`'
    ]


def test_a_name_given_twice(tmp_path: Path) -> None:
    assert mistakes(tmp_path, ONE_TENANT + BOB.replace("bob", "alice")) == [
        "tenants.yaml:4: duplicate tenant name alice: line 2 has it too; choose another"
    ]


def test_a_name_given_twice_in_different_case(tmp_path: Path) -> None:
    assert mistakes(tmp_path, ONE_TENANT + BOB.replace("bob", "ALICE")) == [
        "tenants.yaml:4: tenant name ALICE differs from alice in line 2 only in upper and lower "
        "case, which not every file system tells apart; choose another"
    ]


def test_an_api_key_given_three_times(tmp_path: Path) -> None:
    tenants = "".join(f"- {{name: {name}, {KEY}}}\n" for name in ("alice", "bob", "eve"))
    assert mistakes(tmp_path, "tenants:\n" + tenants) == [
        f"tenants.yaml:{line}: duplicate API key for tenant: {name}; "
        "give every tenant a key of its own"
        for line, name in ((3, "bob"), (4, "eve"))
    ]


def test_an_api_key_given_twice_is_found_though_a_name_is_none(tmp_path: Path) -> None:
    text = f"tenants:\n- {{name: a/b, {KEY}}}\n- {{{KEY}}}\n"
    assert (
        "tenants.yaml:3: duplicate API key for tenant: number 2 of the list; "
        "give every tenant a key of its own"
    ) in mistakes(tmp_path, text)


def test_a_tenant_given_twice_by_an_alias(tmp_path: Path) -> None:
    text = f"tenants:\n- &a {{name: alice, {KEY}}}\n- *a\n"
    assert len(mistakes(tmp_path, text)) == 2


def test_a_mistake_in_an_alias_is_told_once(tmp_path: Path) -> None:
    text = "tenants:\n- &a {nam: alice}\n- *a\n- *a\n"
    assert len(mistakes(tmp_path, text)) == 3
