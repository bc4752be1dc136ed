"""The page in a real browser, with the admin key: tenants are made, changed and deleted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.http.scrapes import ADMIN_KEY, EVENT, ask, scraped_server
from tests.live_server import LiveServer
from tests.ui.conftest import PHONE, Opens, Tab


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with scraped_server(tmp_path_factory.mktemp("admin"), "--access-log") as server:
        yield server


def made(server: LiveServer, name: str) -> str:
    """A tenant. Returns its key."""
    answer = ask(server, "POST", "/admin/tenants", ADMIN_KEY, json={"tenant": name})
    key: str = answer.raise_for_status().json()["key"]
    return key


def state_of(server: LiveServer, key: str) -> tuple[int, str]:
    """What a key is answered."""
    answer = ask(server, "GET", "/position", key)
    return answer.status_code, answer.json().get("code", "")


def test_a_tenant_is_created_and_its_key_works(tab: Tab, server: LiveServer) -> None:
    tab.sign_in(ADMIN_KEY)
    expect(tab.page.locator("#who")).to_have_text("admin")
    tab.page.click("#create")
    tab.page.get_by_label("Name", exact=True).fill("acme")
    tab.page.get_by_label("Name of its first key").fill("backend")
    tab.page.keyboard.press("Enter")
    dialog = tab.page.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text("Key “backend” of acme")
    key = tab.page.inner_text("#new-key")
    assert ask(server, "POST", "/events", key, json=EVENT).json()["position"] == 1
    for _ in range(3):
        tab.page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    tab.page.click("text=I have it")
    expect(tab.page.locator("#create")).to_be_focused()
    expect(tab.page.get_by_role("row", name="acme")).to_contain_text("active")
    expect(dialog).to_have_count(0)
    assert key not in tab.page.content()
    assert not any(key in line for line in [*server.lines, *tab.addresses, tab.page.url])

    tab.page.click("#create")
    tab.page.get_by_label("Name", exact=True).fill("acme")
    tab.page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("acme")
    dialog.get_by_role("button", name="Create").press("Enter")
    expect(dialog.get_by_role("button", name="Create")).not_to_have_attribute("aria-busy", "true")
    expect(dialog.get_by_role("button", name="Create")).to_be_focused()
    assert tab.refused == [409, 409]
    tab.show("#/audit")
    expect(dialog).to_have_count(0)


def test_a_tenant_is_suspended_and_resumed(tab: Tab, server: LiveServer) -> None:
    key = made(server, "paused")
    tab.sign_in(ADMIN_KEY, "#/tenant/paused")
    expect(tab.page.get_by_role("button", name="Delete")).to_be_disabled()
    tab.page.get_by_role("button", name="Suspend").press("Enter")
    expect(tab.page.locator("#state")).to_have_text("suspended")
    expect(tab.page.get_by_role("button", name="Resume")).to_be_focused()
    assert state_of(server, key) == (403, "tenant_suspended")
    tab.page.click("text=Resume")
    expect(tab.page.locator("#state")).to_have_text("active")
    assert state_of(server, key) == (200, "")


def test_keys_are_added_rotated_and_revoked(tab: Tab, server: LiveServer) -> None:
    first = made(server, "keys")
    tab.sign_in(ADMIN_KEY, "#/tenant/keys")
    keys = tab.page.get_by_role("region", name="Keys").locator("tbody tr")
    tab.page.click("text=Add a key")
    tab.page.get_by_label("Name").fill("reports")
    tab.page.get_by_label("Scope").select_option("read")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#new-key")
    reports = tab.page.inner_text("#new-key")
    tab.page.click("text=I have it")
    expect(keys.filter(has_text="reports")).to_contain_text("read")
    expect(tab.page.get_by_role("button", name="Add a key")).to_be_focused()
    assert state_of(server, reports) == (200, "")
    assert ask(server, "POST", "/events", reports, json=EVENT).status_code == 403

    keys.filter(has_text="reports").get_by_role("button").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(keys.filter(has_text="reports")).to_have_count(0)
    assert state_of(server, reports) == (401, "key_invalid")

    tab.page.click("text=Rotate a key")
    tab.page.get_by_label("It is good for").fill("0s")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#new-key")
    second = tab.page.inner_text("#new-key")
    tab.page.click("text=I have it")
    assert state_of(server, second) == (200, "")
    assert state_of(server, first)[0] == 401


def test_limits_and_durability_are_changed(tab: Tab, server: LiveServer) -> None:
    made(server, "bounded")
    tab.sign_in(ADMIN_KEY, "#/tenant/bounded")
    tab.page.get_by_role("button", name="Limits").click()
    tab.page.get_by_label("max_stored_events").fill("many")
    tab.page.keyboard.press("Enter")
    dialog = tab.page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("max_stored_events is a number")
    tab.page.get_by_label("max_stored_events").fill("1000")
    tab.page.keyboard.press("Enter")
    limits = tab.page.get_by_role("region", name="Limits")
    expect(limits).to_contain_text("1,000")
    tab.page.get_by_role("button", name="Limits").click()
    tab.page.get_by_label("max_stored_events").fill("")
    tab.page.keyboard.press("Enter")
    expect(limits).to_contain_text("None")
    tab.page.get_by_role("button", name="Durability").click()
    dialog.get_by_label("Durability").select_option("normal")
    dialog.get_by_role("button", name="Change").click()
    expect(tab.page.locator(".facts")).to_contain_text("normal")
    found = ask(server, "GET", "/admin/tenants/bounded", ADMIN_KEY).json()
    assert (found["limits"], found["durability"]) == ({}, "normal")


def test_a_tenant_is_deleted_with_its_name_repeated_and_purged(
    tab: Tab, server: LiveServer
) -> None:
    key = made(server, "doomed")
    ask(server, "POST", "/events", key, json=EVENT).raise_for_status()
    tab.sign_in(ADMIN_KEY, "#/tenant/doomed")
    tab.page.click("text=Suspend")
    tab.page.click("main >> text=Delete")
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_label("Repeat the name").fill("dooomed")
    tab.page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("That is not the name")
    assert state_of(server, key) == (403, "tenant_suspended")
    dialog.get_by_label("Repeat the name").fill("doomed")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("h1")).to_have_text("Tenants")
    assert state_of(server, key) == (401, "key_invalid")

    tab.show("#/trash")
    row = tab.page.get_by_role("row", name="doomed")
    row.get_by_role("button", name="Purge").click()
    dialog.get_by_label("Repeat the name").fill("doomed")
    tab.page.keyboard.press("Enter")
    expect(row).to_have_count(0)
    assert ask(server, "GET", "/admin/trash", ADMIN_KEY).json() == {"trash": []}

    tab.show("#/audit?tenant=doomed")
    actions = tab.page.get_by_role("region", name="Audit").locator("tbody tr td:nth-child(2)")
    expect(actions).to_have_text(["purge", "delete", "suspend", "create"])


def test_tenants_are_paged_searched_and_drawn(opens: Opens, server: LiveServer) -> None:
    for number in range(28):
        made(server, f"many-{number:02}")
    tab = opens(PHONE)
    tab.sign_in(ADMIN_KEY)
    names = tab.page.locator("td.name, tbody tr td:first-child")
    tab.page.get_by_label("Name begins with").fill("many-")
    expect(names).to_have_count(25)
    expect(tab.page.get_by_text("28 in all")).to_be_visible()
    tab.page.click("text=Next")
    expect(names).to_have_text(["many-25", "many-26", "many-27"])
    expect(tab.page.locator("svg.spark polyline")).to_have_count(3)
    assert not tab.is_too_wide
    for view in ("#/tenant/many-00", "#/trash", "#/audit", "#/tenant/alice"):
        tab.show(view)
        expect(tab.page.locator("main td").first).to_be_visible()
        assert not tab.is_too_wide, view
    expect(tab.page.get_by_text("It is changed in the config file")).to_be_visible()
    expect(tab.page.get_by_role("button", name="Suspend")).to_have_count(0)
