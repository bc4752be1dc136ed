"""The registry of tenants: what it keeps, what it refuses, and what it tells of changes."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ebus.backends.sqlite.trash import check_trash_id
from ebus.config.api_key import new_key
from ebus.core.errors import (
    Conflict,
    EbusError,
    InvalidInput,
    InvalidLimits,
    KeyExists,
    NotConfirmed,
    NotSuspended,
    StoreDamaged,
    StoreForeign,
    StoreNewer,
    TenantExists,
    UnknownKey,
    UnknownTenant,
    UnknownTrash,
)
from ebus.core.tenant import TenantName
from ebus.tenants.model import By, NewKey, Registered
from ebus.tenants.registry import MAX_KEYS, Registry
from ebus.tenants.schema import open_database

ME = By("admin", "http")
ACME = TenantName("acme")


def some_key(text: str | None = None) -> NewKey:
    return NewKey(digest=hashlib.sha256((text or new_key()).encode()).digest())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tenants.registry"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    with Registry(path) as registry:
        yield registry


def test_a_tenant_is_found_again_after_the_registry_was_closed(path: Path) -> None:
    with Registry(path) as registry:
        made = registry.create(
            ACME, some_key("k"), by=ME, durability="full", limits={"max_stored_events": 7}
        )
    with Registry(path) as registry:
        assert registry.find("acme") == made
        assert registry.read().tenants == (made,)
    assert made.state == "active"
    assert made.durability == "full"
    assert made.limits == {"max_stored_events": 7}
    assert [(key.name, key.scope) for key in made.keys] == [("key-1", "both")]
    assert made.keys[0].digest == hashlib.sha256(b"k").digest()


def test_only_its_owner_can_read_it(path: Path, registry: Registry) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_name_is_taken_once_and_in_one_case_only(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME)
    with pytest.raises(TenantExists, match="already"):
        registry.create(ACME, some_key(), by=ME)
    with pytest.raises(TenantExists, match="upper and lower case"):
        registry.create(TenantName("ACME"), some_key(), by=ME)
    assert len(registry.audit(limit=10)) == 1


def test_of_many_who_create_the_same_tenant_at_once_one_does(path: Path) -> None:
    results: list[str] = []
    begin = threading.Barrier(6)

    def create() -> None:
        with Registry(path) as registry:
            begin.wait()
            try:
                registry.create(ACME, some_key(), by=ME)
                results.append("made")
            except TenantExists:
                results.append("exists")

    with Registry(path):
        threads = [threading.Thread(target=create) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == ["exists"] * 5 + ["made"]


def test_suspending_twice_is_one_change(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME)
    assert registry.set_state("acme", "suspended", by=ME).state == "suspended"
    revision = registry.revision()
    registry.set_state("acme", "suspended", by=ME)
    assert registry.revision() == revision
    assert registry.set_state("acme", "active", by=ME).state == "active"
    assert registry.revision() == revision + 1


def test_limits_are_merged_and_removed_one_by_one(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME, limits={"max_stored_events": 7})
    changed = registry.change("acme", by=ME, limits={"max_events_per_second": 2.5})
    assert changed.limits == {"max_stored_events": 7, "max_events_per_second": 2.5}
    changed = registry.change("acme", by=ME, limits={"max_stored_events": None})
    assert changed.limits == {"max_events_per_second": 2.5}
    assert registry.change("acme", by=ME, durability="full", sets_durability=True).durability
    assert registry.change("acme", by=ME, sets_durability=True).durability is None


@pytest.mark.parametrize(
    "limits",
    [
        {"max_eggs": 1},
        {"max_stored_events": 0},
        {"max_stored_events": 1.5},
        {"max_stored_events": True},
        {"max_stored_events": "7"},
        {"max_events_per_second": 0},
        {"max_events_per_second": float("nan")},
        {"max_request_burst": 5},
        {"max_requests_per_second": 1e300},
    ],
)
def test_limits_that_cannot_be_change_nothing(
    registry: Registry, limits: dict[str, object]
) -> None:
    before = registry.create(ACME, some_key(), by=ME)
    with pytest.raises(InvalidLimits):
        registry.change("acme", by=ME, limits=limits)
    with pytest.raises(InvalidLimits):
        registry.create(TenantName("other"), some_key(), by=ME, limits=limits)
    assert registry.read().tenants == (before,)


def test_a_rotated_key_ends_after_the_overlap_and_never_later(path: Path) -> None:
    now_s = 1_000.0
    with Registry(path, now_s=lambda: now_s) as registry:
        registry.create(ACME, some_key(), by=ME)
        registry.rotate_key("acme", some_key().digest, by=ME, overlap_s=60)
        now_s = 2_000.0
        found, name = registry.rotate_key("acme", some_key().digest, by=ME, overlap_s=60)
    assert name == "key-3"
    assert [key.expires_at_s for key in found.keys] == [1_060.0, 2_060.0, None]


def test_a_key_that_is_rotated_without_an_overlap_is_gone(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME)
    registry.add_key("acme", NewKey(digest=b"r" * 32, name="reader", scope="read"), by=ME)
    found, name = registry.rotate_key("acme", b"n" * 32, by=ME, key_name="reader", overlap_s=0)
    assert [(key.name, key.scope) for key in found.keys] == [("key-1", "both"), (name, "read")]


def test_keys_come_and_go_down_to_the_last(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME)
    with pytest.raises(KeyExists):
        registry.add_key("acme", NewKey(digest=b"x" * 32, name="key-1"), by=ME)
    with pytest.raises(UnknownKey):
        registry.revoke_key("acme", "key-2", by=ME)
    with pytest.raises(UnknownKey):
        registry.rotate_key("acme", b"x" * 32, by=ME, key_name="key-2", overlap_s=0)
    for name in ("", "a/b", "a b", "..", "x" * 65, "é"):
        with pytest.raises(InvalidInput):
            registry.add_key("acme", NewKey(digest=b"x" * 32, name=name), by=ME)
    assert registry.revoke_key("acme", "key-1", by=ME).keys == ()
    assert registry.add_key("acme", some_key(), by=ME)[1] == "key-2"


def test_a_tenant_has_so_many_keys_at_most(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME)
    for _ in range(MAX_KEYS - 1):
        registry.add_key("acme", some_key(), by=ME)
    with pytest.raises(Conflict, match="at most"):
        registry.add_key("acme", some_key(), by=ME)


def test_deleting_takes_two_steps_and_the_name(registry: Registry) -> None:
    registry.create(ACME, some_key(), by=ME)
    with pytest.raises(NotSuspended):
        registry.delete("acme", confirmed="acme", by=ME)
    registry.set_state("acme", "suspended", by=ME)
    for confirmed in (None, "", "ACME"):
        with pytest.raises(NotConfirmed):
            registry.delete("acme", confirmed=confirmed, by=ME)
    trashed = registry.delete("acme", confirmed="acme", by=ME)
    with pytest.raises(UnknownTenant):
        registry.find("acme")
    with pytest.raises(TenantExists, match="being deleted"):
        registry.create(ACME, some_key(), by=ME)
    with pytest.raises(Conflict):
        registry.find_trash(trashed.id, confirmed="acme")
    registry.note_moved(trashed.id, 4_096)
    registry.create(ACME, some_key(), by=ME)
    with pytest.raises(NotConfirmed):
        registry.find_trash(trashed.id, confirmed="other")
    assert registry.find_trash(trashed.id, confirmed="acme").size_bytes == 4_096
    registry.purge(trashed.id, by=ME)
    assert registry.trash() == []
    with pytest.raises(UnknownTrash):
        registry.purge(trashed.id, by=ME)


def test_the_audit_log_tells_who_did_what_in_the_order_of_its_ids(path: Path) -> None:
    clock = iter(range(10_000, 0, -500))  # it goes back all the time
    with Registry(path, now_s=lambda: float(next(clock))) as registry:
        registry.create(ACME, some_key(), by=ME)
        registry.set_state("acme", "suspended", by=By("root", "command"))
        registry.create(TenantName("other"), some_key(), by=ME)
        entries = registry.audit(limit=10)
        assert [it.action for it in entries] == ["create", "suspend", "create"]
        assert [it.id for it in entries] == [3, 2, 1]
        assert entries[0].at_s < entries[1].at_s < entries[2].at_s
        assert (entries[1].who, entries[1].how) == ("root", "command")
        assert [it.id for it in registry.audit(limit=1, before=3)] == [2]
        assert [it.id for it in registry.audit(limit=10, tenant="acme")] == [2, 1]


def test_no_key_is_in_the_file(path: Path) -> None:
    keys = [new_key() for _ in range(3)]
    with Registry(path) as registry:
        registry.create(ACME, some_key(keys[0]), by=ME)
        registry.add_key("acme", some_key(keys[1]), by=ME)
        registry.rotate_key("acme", some_key(keys[2]).digest, by=ME, overlap_s=60)
        audit = repr(registry.audit(limit=10))
        stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for key in keys:
        assert key.encode() not in stored
        assert hashlib.sha256(key.encode()).digest() in stored
        assert hashlib.sha256(key.encode()).hexdigest() not in audit


def test_pages_are_in_the_order_of_names(registry: Registry) -> None:
    for name in ("b", "a1", "a", "a2", "B2"):
        registry.create(TenantName(name), some_key(), by=ME)

    def names(**page: str) -> list[str]:
        return [it.name for it in registry.page(limit=3, **page)]

    assert names() == ["B2", "a", "a1"]
    assert names(after="a1") == ["a2", "b"]
    assert names(prefix="a") == ["a", "a1", "a2"]
    assert names(prefix="a", after="a1") == ["a2"]
    assert registry.count() == 5
    assert registry.count("a") == 3


def test_a_file_of_somebody_else_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreForeign):
        Registry(path)
    assert path.read_bytes() == before
    path.write_bytes(b"nothing of SQLite's" * 100)
    with pytest.raises(StoreDamaged):
        Registry(path)


def test_a_registry_of_a_newer_ebus_is_left_alone(path: Path) -> None:
    Registry(path).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 2)
    connection.close()
    with pytest.raises(StoreNewer):
        Registry(path)


NAMES = st.sampled_from(["acme", "Acme", "globex"])


class Model(RuleBasedStateMachine):
    """What a dict says of tenants, the registry says too."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.registry = Registry(Path(self.directory.name) / "tenants.registry")
        self.tenants: dict[str, str] = {}
        self.keys: dict[str, int] = {}
        self.changes = 0

    def teardown(self) -> None:
        self.registry.close()
        self.directory.cleanup()

    def expect(self, error: type[EbusError] | None, call: Callable[[], object]) -> bool:
        if error is None:
            call()
            return True
        with pytest.raises(error):
            call()
        return False

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        is_taken = name.lower() in {it.lower() for it in self.tenants}
        if self.expect(
            TenantExists if is_taken else None,
            lambda: self.registry.create(TenantName(name), some_key(), by=ME),
        ):
            self.tenants[name], self.keys[name] = "active", 1
            self.changes += 1

    @rule(name=NAMES, state=st.sampled_from(["active", "suspended"]))
    def set_state(self, name: str, state: str) -> None:
        error = None if name in self.tenants else UnknownTenant
        if self.expect(error, lambda: self.registry.set_state(name, state, by=ME)):  # type: ignore[arg-type]
            self.changes += self.tenants[name] != state
            self.tenants[name] = state

    @rule(name=NAMES)
    def rotate(self, name: str) -> None:
        error = None if name in self.tenants else UnknownTenant

        def rotate() -> None:
            self.registry.rotate_key(name, some_key().digest, by=ME, overlap_s=0)

        if self.expect(error, rotate):
            self.keys[name] = 1
            self.changes += 1

    @rule(name=NAMES)
    def add_key(self, name: str) -> None:
        error = None if name in self.tenants else UnknownTenant
        if self.expect(error, lambda: self.registry.add_key(name, some_key(), by=ME)):
            self.keys[name] += 1
            self.changes += 1

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        error: type[EbusError] | None = None
        if name not in self.tenants:
            error = UnknownTenant
        elif self.tenants[name] == "active":
            error = NotSuspended

        def delete() -> None:
            self.registry.note_moved(self.registry.delete(name, confirmed=name, by=ME).id, 0)

        if self.expect(error, delete):
            del self.tenants[name], self.keys[name]
            self.changes += 1

    @invariant()
    def it_says_the_same(self) -> None:
        snapshot = self.registry.read()
        assert snapshot.revision == self.changes == len(self.registry.audit(limit=10_000))
        assert {it.name: it.state for it in snapshot.tenants} == self.tenants
        assert {it.name: len(it.keys) for it in snapshot.tenants} == self.keys
        found: list[Registered] = self.registry.page(limit=10)
        assert [it.name for it in found] == sorted(self.tenants)


TestModel = Model.TestCase


def test_keys_that_have_ended_make_room_for_new_ones(path: Path) -> None:
    now_s = 1_000.0
    with Registry(path, now_s=lambda: now_s) as registry:
        registry.create(ACME, some_key(), by=ME)
        for _ in range(MAX_KEYS + 5):
            found, _ = registry.rotate_key("acme", some_key().digest, by=ME, overlap_s=10)
            assert len(found.keys) <= MAX_KEYS
            now_s += 60


def test_the_longest_name_has_an_id_in_the_trash_that_is_a_directorys_name(
    registry: Registry,
) -> None:
    longest = "z" * 255
    registry.create(TenantName(longest, max_chars=255), some_key(), by=ME)
    registry.set_state(longest, "suspended", by=ME)
    trashed = registry.delete(longest, confirmed=longest, by=ME)
    assert check_trash_id(trashed.id).startswith("zzz")
    assert trashed.tenant == longest


def test_a_change_survives_a_power_cut(path: Path) -> None:
    connection = open_database(path)
    assert connection.pragma("synchronous") == 2  # FULL
    assert connection.pragma("journal_mode") == "wal"
    connection.close()
