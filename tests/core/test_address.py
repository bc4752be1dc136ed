"""What may be shown of an engine's address."""

from __future__ import annotations

import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus import open_engine
from ebus.backends.memory import MemoryEngine
from ebus.core.address import Address, Location, query_of, shown, split_location
from ebus.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("sqlite:data", "sqlite:data"),
        ("sqlite:/srv/C:/data", "sqlite:/srv/C:/data"),
        ("memory:", "memory:"),
        ("nats://h1:4222,h2:4222", "nats://h1:4222,h2:4222"),
        ("nats://user:Canary@h1:4222,h2?replicas=3&password=Canary", "nats://h1:4222,h2"),
        ("nats://Canary@h1", "nats://h1"),
        ("nats://user:Ca@na/ry?Canary#Canary@h1", "nats://h1"),
        ("tls://[::1]:4222?token=Canary", "tls://[::1]:4222"),
        ("http://Canary@host:8080/ebus", "http://host:8080/ebus"),
        ("nats:user:Canary@h1", "nats:…@h1"),
        ("nats:/user:Canary@h1?x=Canary", "nats:…@h1"),
        ("user@Canary@h1", "…@h1"),
        ("sqlite", "sqlite"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_who_asks_and_how(address: str, wanted: str) -> None:
    assert shown(address) == wanted
    assert "Canary" not in shown(address)


def test_an_address_is_printed_as_it_may_be_shown() -> None:
    address = Address("nats://user:Canary@h1?x=Canary")
    printed = f"{address} {address!s} {address!r} {address:>30} {[address]}"
    record = logging.makeLogRecord({"msg": "to %s", "args": (address,)})
    assert "Canary" not in f"{printed} {record.getMessage()}"
    assert printed.count("nats://h1") == 5
    assert repr(address) == "'nats://h1'"
    assert str(Address("no address")) == "no address"
    assert type(str(Address("no address"))) is str


def test_an_address_is_whole_to_whoever_opens_compares_or_copies_it() -> None:
    address = Address("nats://user:Canary@h1")
    assert address == "nats://user:Canary@h1" != Address("nats://h1")
    assert address.partition(":")[2] == "//user:Canary@h1"
    assert pickle.loads(pickle.dumps(address)) == address
    assert isinstance(pickle.loads(pickle.dumps(address)), Address)
    with open_engine(Address("memory:user:Canary@h1")) as engine:
        assert isinstance(engine, MemoryEngine)


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_password_is_shown_whatever_is_in_it(secret: str) -> None:
    marked = f"<{secret}>"
    for address in (f"nats://user:{marked}@h1", f"nats:user:{marked}@h1", f"nats:h1?x={marked}"):
        assert marked not in shown(address)


def test_a_location_is_taken_apart_and_decoded() -> None:
    assert split_location("//u%40:p%2F+@h1:1,h2/?a=x%26y&b=1+1&", example="…") == Location(
        "u@", "p/+", ("h1:1", "h2"), {"a": "x&y", "b": "1+1"}
    )
    assert split_location("//h1", example="…") == Location(None, None, ("h1",), {})
    assert split_location("//u:@h1", example="…").password == ""


@given(
    options=st.dictionaries(
        st.from_regex("[a-z_]+", fullmatch=True),
        st.text().filter(lambda text: text.isprintable()),
        max_size=4,
    )
)
def test_what_a_query_says_comes_back(options: dict[str, str]) -> None:
    assert split_location(f"//h1{query_of(options)}", example="…").options == options


@pytest.mark.parametrize(
    "location",
    [
        "",
        "h1",
        "/h1",
        "//",
        "//user:Canary@",
        "//?a=Canary",
        "//h1/Canary",
        "//h1#Canary",
        "//h1?a=1#Canary",
        "//user:Ca/nary@h1",
        "//user:Canary@Canary@h1",
        "//user:Canary,Canary@h1",
        "//user:Canary@h1,user:Canary@h2",
        "//user:Canary%00@h1",
        "//user:Canary%ff@h1",
        "//h1?Canary",
        "//h1?Canary=1&Canary=2",
        "//h1?Canary%0A=1",
        "//h1?a=Canary%ff",
    ],
)
def test_what_is_wrong_with_a_location_is_told_without_repeating_it(location: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        split_location(location, example="nats://h1")
    assert "Canary" not in f"{caught.value}{caught.value.__context__!r}"
