"""The page in a real browser, with a tenant's key."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.http.scrapes import KEYS, ask, scraped_server
from tests.live_server import LiveServer
from tests.ui.conftest import PHONE, Opens, Tab, fails_first

ALICE, BOB = KEYS["alice"], KEYS["bob"]

EXACT = '{"n":1.10,"big":123456789012345678901234567890,"n":2e0,"deep":[{"ok":true}],"none":null}'
"""What `JSON.parse` would not give back."""

EVIL = '<img src="/health?hit" onerror="document.title=1"><script>document.title=1</script>'

VIEWS = ("#/overview", "#/events", "#/live", "#/subscriptions", "#/subscriptions/mailer")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("page")
    with scraped_server(directory, "--access-log") as server:
        events = [
            {"type": "Numbered", "data": {"number": number}, "stream": f"order-{number % 2}"}
            for number in range(120)
        ]
        ask(server, "POST", "/events/batch", json=events).raise_for_status()
        for name, position in (("mailer", 100), ("index", 3), ("far", 2**53 + 1)):
            ask(server, "PUT", f"/subscriptions/{name}/position", json={"position": position})
        ask(server, "POST", "/subscriptions/mailer/lease", json={"max_events": 5})
        yield server


def append(server: LiveServer, type: str, data: object, **fields: object) -> int:
    answer = ask(server, "POST", "/events", json={"type": type, "data": data, **fields})
    position: int = answer.raise_for_status().json()["position"]
    return position


def append_with_curl(server: LiveServer, event: object) -> None:
    curl = shutil.which("curl")
    if curl is None:
        httpx.post(f"{server.url}/events", json=event, headers={"X-API-Key": ALICE})
        return
    command = [curl, "-s", "-f", f"{server.url}/events", "-H", f"X-API-Key: {ALICE}"]
    subprocess.run([*command, "-d", json.dumps(event)], check=True, capture_output=True)


def test_a_key_signs_in_and_is_gone_after_signing_out(tab: Tab) -> None:
    tab.sign_in(ALICE)
    expect(tab.page.locator("#who")).to_have_text("alice")
    expect(tab.page.locator("#tile-head")).to_have_text("120")
    tab.page.reload()
    expect(tab.page.locator("#who")).to_have_text("alice")
    assert tab.page.evaluate("sessionStorage.length") == 1
    assert tab.page.evaluate("localStorage.length + document.cookie.length") == 0
    tab.page.click("#sign-out")
    expect(tab.page.locator("#key")).to_be_focused()
    expect(tab.page.locator("#key")).to_have_value("")
    assert tab.page.evaluate("sessionStorage.length") == 0
    tab.page.reload()
    expect(tab.page.locator("#key")).to_be_visible()
    assert "alice" not in tab.page.content()


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("not-a-key-of-anybody", "Invalid API key."),
        ("two words", "A key has no spaces"),
        ("schlüssel", "no characters beyond ASCII"),
    ],
)
def test_a_wrong_key_is_refused_in_words(tab: Tab, key: str, problem: str) -> None:
    tab.open("/ui")
    tab.page.fill("#key", key)
    tab.page.click("text=Sign in >> nth=-1")
    expect(tab.page.get_by_role("alert")).to_contain_text(problem)
    expect(tab.page.locator("#bar")).to_be_hidden()
    assert tab.page.evaluate("sessionStorage.length") == 0
    assert key not in tab.page.url
    assert tab.refused == ([401] if problem.startswith("Invalid") else [])


def test_an_event_that_curl_appended_appears_in_the_live_tail(tab: Tab, server: LiveServer) -> None:
    tab.sign_in(ALICE, "#/live")
    expect(tab.page.locator(".state.live")).to_have_text("Live")
    expect(tab.page.locator(".events > li")).to_have_count(20)
    append_with_curl(server, {"type": "FromCurl", "data": {"order": "A-001"}})
    newest = tab.page.locator(".events > li").first
    expect(newest.locator(".type")).to_have_text("FromCurl")
    newest.locator("[data-row]").click()
    expect(newest.locator(".json")).to_contain_text('"order": "A-001"')

    tab.page.locator("h1").click()
    tab.page.keyboard.press(".")
    expect(tab.page.locator("[data-pause]")).to_have_text("Go on")
    append_with_curl(server, {"type": "WhilePaused", "data": 1})
    expect(tab.page.get_by_text("1 event waiting")).to_be_visible()
    expect(tab.page.locator(".type", has_text="WhilePaused")).to_have_count(0)
    many = [{"type": "Many", "data": number} for number in range(600)]
    ask(server, "POST", "/events/batch", json=many).raise_for_status()
    expect(tab.page.get_by_text("601 events waiting; the last 500 are kept")).to_be_visible()
    tab.page.click("[data-pause]")
    expect(newest.locator(".preview")).to_have_text("599")
    expect(tab.page.locator(".events > li")).to_have_count(500)


def test_a_tail_that_breaks_goes_on_where_it_was(tab: Tab, server: LiveServer) -> None:
    first = append(server, "Broken", 1)
    event = ask(server, "GET", f"/events?from={first}&to={first}").json()[0]
    cut_short = f'{json.dumps(event)}\n{{"position":{first + 1},"type":"Cut'
    seen: list[str | None] = []

    def break_the_first(route: Route) -> None:
        seen.append(route.request.headers.get("last-event-id"))
        if len(seen) == 1:
            route.fulfill(body=cut_short, content_type="application/x-ndjson")
        else:
            route.continue_()

    tab.page.route("**/events/stream*", break_the_first)
    tab.sign_in(ALICE, "#/live?type=Broken")
    second = append(server, "Broken", 2)
    positions = tab.page.locator(".events .position")
    expect(positions).to_have_text([str(second), str(first)])
    assert seen == [None, str(first)]


def test_data_is_shown_as_it_is_stored(tab: Tab, server: LiveServer) -> None:
    body = f'{{"type":"Exact","data":{EXACT},"metadata":{{"correlation":"c-1"}}}}'
    ask(server, "POST", "/events", content=body).raise_for_status()
    tab.sign_in(ALICE, "#/events?type=Exact")
    tab.page.click("[data-row]")
    shown = tab.page.locator(".json")
    for member in ('"n": 1.10', '"big": 123456789012345678901234567890', '"n": 2e0', '"ok": true'):
        expect(shown).to_contain_text(member)
    expect(tab.page.locator(".opened dl")).to_contain_text("metadata.correlation")
    tab.page.evaluate(
        "navigator.clipboard.writeText = async text => { document.body.dataset.copied = text }"
    )
    tab.page.click("text=Copy data")
    expect(tab.page.locator("body")).to_have_attribute("data-copied", EXACT)


def test_what_looks_like_html_is_text(tab: Tab, server: LiveServer) -> None:
    fields = {"stream": EVIL, "id": EVIL, "metadata": {EVIL: EVIL}}
    append(server, EVIL[:200], {EVIL: [EVIL], "turned": "\u202egpj.exe"}, **fields)
    tab.sign_in(ALICE, "#/events")
    tab.page.click("[data-row] >> nth=0")
    expect(tab.page.locator(".json")).to_contain_text("<script>document.title=1</script>")
    expect(tab.page.locator(".json")).to_contain_text(r'"turned": "\u202egpj.exe"')
    assert tab.page.locator("main :is(script, img)").count() == 0
    assert tab.page.title() == "Events · alice · ebus"
    assert not any("/health" in address for address in tab.addresses)


def test_pages_and_filters_of_events(tab: Tab) -> None:
    tab.sign_in(ALICE, "#/events?type=Numbered")
    positions = tab.page.locator(".events .position")
    expect(positions).to_have_count(50)
    expect(positions.first).to_have_text("120")
    tab.page.keyboard.press("n")
    expect(positions.first).to_have_text("70")
    tab.page.keyboard.press("n")
    expect(positions).to_have_count(20)
    expect(tab.page.locator("[data-next]")).to_be_disabled()
    tab.page.keyboard.press("p")
    expect(positions.first).to_have_text("70")

    tab.page.click("text=More filters")
    tab.page.get_by_label("From position").fill("5")
    tab.page.get_by_label("Stream", exact=True).fill("order-1")
    tab.page.get_by_label("Order", exact=True).select_option("forward")
    tab.page.click("main >> text=Search")
    expect(positions.first).to_have_text("6")
    assert tab.page.url.endswith("#/events?type=Numbered&stream=order-1&from=5&direction=forward")
    tab.page.get_by_label("From position").fill("x")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("alert")).to_contain_text("from")
    assert tab.refused == [400]


def test_subscriptions_and_their_lag(tab: Tab, server: LiveServer) -> None:
    tab.sign_in(ALICE, "#/subscriptions")
    index = tab.page.locator("tr", has_text="index")
    expect(index.locator("td").nth(1)).to_have_text("3")
    head = ask(server, "GET", "/position").json()["position"]
    ask(server, "PUT", "/subscriptions/index/position", json={"position": head})
    expect(index.locator("td").nth(2)).to_have_text("0")
    expect(tab.page.locator("tr", has_text="far")).to_contain_text("9,007,199,254,740,993")
    tab.page.get_by_label("Name begins with").fill("mail")
    expect(index).to_have_count(0)
    tab.page.click("text=mailer")
    expect(tab.page.get_by_role("region", name="Leases")).to_contain_text("101 – 105")


def test_the_keyboard_is_enough(tab: Tab) -> None:
    keyboard = tab.page.keyboard
    tab.open("/ui")
    expect(tab.page.locator("#key")).to_be_focused()
    keyboard.type(ALICE)
    keyboard.press("Tab")
    expect(tab.page.locator("button", has_text="Sign in")).to_be_focused()
    keyboard.press("Enter")
    expect(tab.page.locator("h1")).to_be_focused()
    keyboard.press("g")
    keyboard.press("e")
    expect(tab.page).to_have_url(tab.server.url + "/ui#/events")
    first = tab.page.locator(".events [data-row]").first
    expect(first).to_be_visible()
    keyboard.press("j")
    keyboard.press("j")
    keyboard.press("k")
    expect(first).to_be_focused()
    keyboard.press("Enter")
    expect(tab.page.locator(".opened")).to_be_visible()
    keyboard.press("/")
    expect(tab.page.get_by_label("Type")).to_be_focused()
    keyboard.press("Escape")
    keyboard.press("?")
    expect(tab.page.get_by_role("dialog")).to_contain_text("the next row")
    keyboard.press("Escape")
    expect(tab.page.get_by_role("dialog")).to_have_count(0)


def test_a_phone_has_nothing_to_scroll_to_sideways(opens: Opens) -> None:
    tab = opens(PHONE)
    tab.sign_in(ALICE)
    for view in VIEWS:
        tab.show(view)
        expect(tab.page.locator("main :is(.value, .row, td) >> nth=0")).to_be_visible()
        assert not tab.is_too_wide, view
    tab.show("#/events")
    tab.page.click("[data-row] >> nth=0")
    assert not tab.is_too_wide


def test_it_is_dark_where_the_system_is_and_light_when_told_so(opens: Opens) -> None:
    tab = opens(scheme="dark")
    tab.open("/ui")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = tab.page.evaluate(paper)
    tab.page.emulate_media(color_scheme="light")
    light = tab.page.evaluate(paper)
    assert dark != light
    tab.sign_in(BOB)
    tab.page.get_by_role("button", name="Light or dark").click()
    assert tab.page.evaluate(paper) == dark
    tab.page.reload()
    assert tab.page.evaluate(paper) == dark


def test_a_key_that_is_taken_away_ends_the_session(tab: Tab) -> None:
    tab.sign_in(BOB)
    expect(tab.page.locator("#tile-head")).to_have_text("0")
    tab.page.route("**/metrics", lambda route: route.continue_(headers={"X-API-Key": "gone"}))
    expect(tab.page.get_by_role("alert")).to_contain_text("Invalid API key.")
    expect(tab.page.locator("#key")).to_be_visible()
    assert tab.page.evaluate("sessionStorage.length") == 0


def test_the_documentation_of_the_api_is_there_without_a_key(opens: Opens) -> None:
    tab = opens(PHONE)
    tab.open("/docs")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("ebus API")
    assert not tab.is_too_wide
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("lease}/ack")
    expect(tab.page.locator("details.operation:visible")).to_have_count(1)
    tab.page.click("#acknowledge > summary")
    tab.page.click("#acknowledge >> text=AckIn")
    expect(tab.page.locator("#schema-AckIn")).to_be_in_viewport()
    for operation in tab.page.query_selector_all("details.operation:visible"):
        operation.evaluate("one => { one.open = true }")
    assert not tab.is_too_wide


def test_a_view_goes_on_by_itself_after_what_passes(tab: Tab) -> None:
    fails_first(tab, "**/metrics", status=429)
    tab.sign_in_late(ALICE)
    expect(tab.page.get_by_role("alert")).to_contain_text("Wait a moment. The page tries")
    expect(tab.page.locator("#who")).to_have_text("alice")
    fails_first(tab, "**/metrics", status=200)
    tab.show("#/constructor")
    expect(tab.page.get_by_role("alert")).to_contain_text("is not one of ebus")
    expect(tab.page.locator("#tile-head")).not_to_have_text("–")
    expect(tab.page.get_by_role("alert")).to_have_count(0)
    fails_first(tab, "**/events?*", status=429)
    tab.show("#/events")
    expect(tab.page.get_by_text("Trying again")).to_be_visible()
    expect(tab.page.locator("[data-row]").first).to_be_visible()
    retry_after = tab.page.evaluate(
        """import("/ui/api.js")
            .then(api => new api.ApiError(503, {}, "Wed, 21 Oct 2026 07:28:00 GMT").retryAfterMs)"""
    )
    assert retry_after == 0


def test_a_table_that_is_drawn_anew_keeps_the_focus(tab: Tab) -> None:
    parked = [
        {"first_position": n, "last_position": n, "attempts": 1, "reason": "", "parked_at": ""}
        for n in (7, 8)
    ]
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        found = {"position": 1, "lag": len(asked), "frontier": 1, "waiting": [], "leases": []}
        route.fulfill(json={**found, "parked": parked})

    tab.page.route("**/subscriptions/mailer", answer)
    tab.sign_in(ALICE, "#/subscriptions/mailer")
    drop = tab.page.locator("tr", has_text="8").get_by_role("button", name="Drop")
    drop.focus()
    drawn = len(asked)
    expect(tab.page.locator(".facts")).to_contain_text(f"Lag{drawn + 1}")
    expect(drop).to_be_focused()
