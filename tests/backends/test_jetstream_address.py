"""The address of a NATS cluster: its options, their bounds, and that no secret is shown."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from ebus.backends.jetstream.address import (
    MAX_SECRET_FILE_BYTES,
    NatsSettings,
    Options,
    parse,
)
from ebus.backends.jetstream.settings import SETTINGS, spelled_in_address
from ebus.core.address import SupportsSettings
from ebus.core.errors import InvalidInput, StoreRefused

CANARY = "Canary7Secret"


def refusal(location: str, *, secure: bool = False) -> str:
    """What is said of an address. Never a secret, in the error nor in what was raised before it."""
    with pytest.raises(InvalidInput) as caught:
        parse(location, secure=secure)
    assert CANARY not in f"{caught.value} {caught.value.__context__!r}"
    return str(caught.value)


def test_an_address_of_servers_alone_has_every_default() -> None:
    assert parse("//h1:4223,h2,[::1]:1,[2001:0db8::0]", secure=False) == Options(
        servers=("h1:4223", "h2:4222", "[::1]:1", "[2001:db8::]:4222"),
        tls=False,
        replicas=1,
        prefix="ebus",
        storage="file",
        require_durable=False,
        timeout_s=10.0,
    )


def test_an_address_may_say_everything() -> None:
    location = (
        "//ebus@h1?replicas=5&prefix=orders7&storage=memory&require_durable=true&timeout_s=0.5"
        "&password_file=/p%26q&tls_ca=/ca&tls_cert=/cert&tls_key=/key&tls_first=true"
        "&system_user=sys&system_password=s%2Bt"
    )
    assert parse(location, secure=True) == Options(
        servers=("h1:4222",),
        tls=True,
        user="ebus",
        password_file="/p&q",
        replicas=5,
        prefix="orders7",
        storage="memory",
        require_durable=True,
        tls_ca="/ca",
        tls_cert="/cert",
        tls_key="/key",
        tls_first=True,
        system_user="sys",
        system_password="s+t",
        timeout_s=0.5,
    )


@pytest.mark.parametrize(
    ("location", "user", "password", "token"),
    [
        ("//ebus:p%40%3A@h1", "ebus", "p@:", None),
        ("//h1?user=ebus&password=p", "ebus", "p", None),
        ("//ebus@h1?password=p", "ebus", "p", None),
        ("//t0ken@h1", None, None, "t0ken"),
        ("//h1?token=t0ken", None, None, "t0ken"),
        ("//h1", None, None, None),
    ],
)
def test_who_asks_stands_before_the_servers_or_among_the_options(
    location: str, user: str | None, password: str | None, token: str | None
) -> None:
    options = parse(location, secure=False)
    assert (options.user, options.password, options.token) == (user, password, token)
    assert options.secret() == (password or token)
    assert options.system_secret() is None


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("", "two slashes are missing"),
        ("data", "two slashes are missing"),
        ("//", "the server is missing"),
        (f"//{CANARY}:x:y@", "the server is missing"),
        (f"//h1:{CANARY}", "the servers of the address must have a port from 1 to 65535"),
        ("//h1:0", "must have a port from 1 to 65535"),
        ("//h1:65536", "must have a port from 1 to 65535"),
        ("//h1:", "must have a port from 1 to 65535"),
        ("//h1:04222", "must have a port from 1 to 65535"),
        ("//h1,,h2", "must be HOST or HOST:PORT"),
        ("//größe", "must be HOST or HOST:PORT"),
        ("//::1", "must be HOST or HOST:PORT"),
        (f"//[{CANARY}]", "must be HOST or HOST:PORT"),
        ("//-h", "must be HOST or HOST:PORT"),
        ("//" + ",".join(f"h{number}" for number in range(65)), "must be at most 64"),
        ("//h1,h1:4222", "name one server twice"),
        (f"//h1?{CANARY}=1", "is unknown; known are user, password,"),
        ("//h1?replica=1", "is unknown; did you mean replicas?"),
        ("//h1?Tls-First=true", "is unknown; did you mean tls_first?"),
        ("//h1?tls=true", "is unknown: write tls:// in the place of nats://"),
        ("//h1?servers=h2", "is unknown: write tls:// in the place"),
        ("//h1?replicas=2", "the option replicas of the address must be 1, 3 or 5; an address is"),
        ("//h1?replicas=03", "must be 1, 3 or 5"),
        ("//h1?replicas=", "must be 1, 3 or 5"),
        ("//h1?prefix=a-b", "must be 1 to 32 letters and digits"),
        ("//h1?prefix=" + "a" * 33, "must be 1 to 32 letters and digits"),
        ("//h1?prefix=ü", "must be 1 to 32 letters and digits"),
        ("//h1?storage=File", "must be file or memory"),
        ("//h1?require_durable=yes", "must be true or false"),
        ("//h1?timeout_s=0", "must be seconds from 0.1 to 300"),
        ("//h1?timeout_s=0.05", "must be seconds from 0.1 to 300"),
        ("//h1?timeout_s=301", "must be seconds from 0.1 to 300"),
        ("//h1?timeout_s=inf", "must be seconds from 0.1 to 300"),
        ("//h1?timeout_s=1e1", "must be seconds from 0.1 to 300"),
        ("//h1?credentials=~/x", "must be a full path or one relative to where ebus starts"),
        ("//h1?credentials=", "is empty"),
        ("//h1?credentials=" + "x" * 4097, "has more than 4096 characters"),
        (f"//a:{CANARY}@h1?user=b", "the option user of the address stands before the servers too"),
        (f"//a:{CANARY}@h1?password=b", "option password of the address stands before the servers"),
        (f"//{CANARY}@h1?token=b", "the option token of the address stands before the servers too"),
        ("//a:@h1", "the option password of the address is empty"),
        ("//:b@h1", "the option user of the address is empty"),
        (f"//a:{CANARY}@h1?password_file=/p", "password_file of the address stands in the place"),
        (f"//h1?password={CANARY}", "the option password of the address has no user: say user too"),
        ("//h1?password_file=/p", "password_file of the address has no user: say user too"),
        ("//h1?user=a", "option user of the address has no password: say password_file too"),
        (f"//{CANARY}@h1?credentials=/c", "credentials of the address and token are two ways"),
        (f"//a:{CANARY}@h1?token_file=/c", "token_file of the address and user are two ways"),
        ("//h1?token=a&token_file=/c", "token_file of the address and token are two ways"),
        ("//h1?system_user=a", "system_user of the address has no password: say system_password_"),
        (f"//h1?system_password={CANARY}", "has no user: say system_user too"),
        (
            f"//h1?system_user=a&system_password={CANARY}&system_credentials=/c",
            "system_credentials of the address and system_user are two ways",
        ),
        ("//h1?tls_ca=/c", "tls_ca of the address is for tls only: write tls:// in the place"),
        ("//h1?tls_first=false", "tls_first of the address is for tls only"),
    ],
)
def test_a_mistake_is_told_by_its_option(location: str, problem: str) -> None:
    assert problem in refusal(location)


@pytest.mark.parametrize(("one", "other"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_and_its_key_go_together(one: str, other: str) -> None:
    told = f"the option {one} of the address needs {other} beside it"
    assert told in refusal(f"//h1?{one}=/x", secure=True)


@pytest.mark.parametrize(
    "location",
    [
        f"//ebus:{CANARY}@h1,h2",
        f"//{CANARY}@h1,h2",
        f"//h1,h2?user=u&password={CANARY}&system_user=s&system_password={CANARY}",
    ],
)
def test_options_do_not_show_their_secrets(location: str) -> None:
    options = parse(location, secure=False)
    assert options.named() == "nats://h1:4222,h2:4222"
    shown = [
        repr(options),
        str(options),
        f"{options}",
        f"{options!r}",
        repr(options.__rich_repr__()),
    ]
    assert CANARY not in " ".join(shown)
    assert "h1:4222" in repr(options)
    assert pickle.loads(pickle.dumps(options)) == copy.copy(options) == options


def test_a_cluster_is_named_by_how_it_is_reached() -> None:
    assert parse("//u:p@h1", secure=True).named() == "tls://h1:4222"


@pytest.mark.parametrize(
    ("query", "setting"),
    [
        ("user=u&password_file", "password_file"),
        ("token_file", "token_file"),
        ("system_user=u&system_password_file", "system.password_file"),
    ],
)
def test_a_secret_is_read_from_its_file_when_it_is_wanted(
    tmp_path: Path, query: str, setting: str
) -> None:
    file = tmp_path / "secret"
    options = parse(f"//h1?{query}={file}", secure=False)
    wanted = options.system_secret if setting.startswith("system.") else options.secret

    def told() -> str:
        with pytest.raises(StoreRefused) as caught:
            wanted()
        message = str(caught.value)
        assert message.startswith(f"{setting}: {file}")
        assert CANARY not in f"{message} {caught.value.__context__!r}"
        return message

    assert "No such file" in told()
    file.mkdir()
    assert "directory" in told()
    file.rmdir()
    for nothing in (b"", b"\n", b"\r\n"):
        file.write_bytes(nothing)
        assert "is empty" in told()
    for wrong in (f"{CANARY}\nx\n".encode(), CANARY.encode() + b"\xff", CANARY.encode() + b"\0"):
        file.write_bytes(wrong)
        assert "has to hold one line of text" in told()
    file.write_bytes(b"x" * (MAX_SECRET_FILE_BYTES + 1))
    assert "too large" in told()
    for end in ("", "\n", "\r\n"):
        file.write_bytes(f" {CANARY} ü{end}".encode())
        assert wanted() == f" {CANARY} ü"


EVERYTHING = {
    "servers": "h1:4222,[::1]:1",
    "user": "u&=?",
    "password": "p@:/%+ #ü",
    "replicas": "3",
    "prefix": "x",
    "storage": "memory",
    "require_durable": "true",
    "tls": "true",
    "tls.ca": "/ca+ &.pem",
    "tls.cert": "/cert",
    "tls.key": "/key",
    "tls.first": "true",
    "system.credentials": "/sys",
    "timeout_s": "2.5",
}


def test_settings_become_an_address_that_says_the_same() -> None:
    settings = NatsSettings(secure=False)
    address = settings.address(EVERYTHING)
    scheme, _, location = address.partition(":")
    assert scheme == "tls"
    settings.check(NatsSettings(secure=True).address({"servers": "h1"}).partition(":")[2])
    options = parse(location, secure=True)
    for name, text in EVERYTHING.items():
        assert getattr(options, spelled_in_address(name)) == SETTINGS[name].read(text)


@pytest.mark.parametrize(("secure", "scheme"), [(False, "nats"), (True, "tls")])
def test_an_address_without_tls_has_the_scheme_of_its_factory(secure: bool, scheme: str) -> None:
    settings = NatsSettings(secure=secure)
    assert settings.address({"servers": "h1,h2"}) == f"{scheme}://h1,h2"
    assert not settings.contradictions({"servers": "h1"}, str)


def test_each_setting_has_an_option_and_an_example_that_can_be_read() -> None:
    assert isinstance(NatsSettings(secure=False), SupportsSettings)
    assert {spelled_in_address(name) for name in SETTINGS} == set(Options.__struct_fields__)
    for setting in SETTINGS.values():
        setting.read(setting.example.strip('[]"'))
