"""A Chromium without windows that reaches nothing but the server under test."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright

from tests.http.scrapes import ADMIN_KEY, KEYS
from tests.live_server import LiveServer

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

TIMEOUT_MS = 60_000
"""For what is waited for; a machine may be busy with other tests."""

ARGUMENTS = [
    "--no-sandbox",  # which root cannot have, as which CI runs
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

DESKTOP = (1200, 800)
PHONE = (360, 740)

REFUSED = "Failed to load resource: the server responded with a status of "
"""What the browser itself says of an answer that is no success, whatever the page makes of it."""

SECRETS = (*KEYS.values(), ADMIN_KEY)


def program() -> str:
    """Where it is: installed by the system, or by `make chromium`."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("needs Chromium: make chromium")
    pytest.skip("needs Chromium: make chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each module: what drives it may not be around while other tests run a loop."""
    path = program()
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A tab that writes down what goes wrong in it, and every address that it asks for."""

    def __init__(self, page: Page, server: LiveServer) -> None:
        self.page = page
        self.server = server
        self.wrong: list[str] = []
        self.refused: list[int] = []
        """The statuses of answers that were no success."""
        self.addresses: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", self._hear)
        page.on("response", self._look)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))

    def _hear(self, message: ConsoleMessage) -> None:
        """That the policy was violated is said here too."""
        if message.type in {"error", "warning"} and not message.text.startswith(REFUSED):
            self.wrong.append(message.text)

    def _look(self, response: Response) -> None:
        if response.status >= 400:
            self.refused.append(response.status)

    def open(self, path: str) -> None:
        self.page.goto(self.server.url + path)

    def sign_in(self, key: str, view: str = "") -> None:
        self.open(f"/ui{view}")
        self.page.fill("#key", key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#sign-out")

    def sign_in_late(self, key: str) -> None:
        """As a page that is loaded again, with the key that its tab has."""
        self.open("/ui")
        self.page.evaluate("key => sessionStorage.setItem('ebus-key', key)", key)
        self.page.reload()

    def show(self, view: str) -> None:
        """Another view, as by a link; it has begun when this returns."""
        self.page.evaluate(
            """view => new Promise(shown => {
                addEventListener("hashchange", shown, { once: true })
                location.hash = view
            })""",
            view,
        )

    @property
    def is_too_wide(self) -> bool:
        """Whether there is anything to scroll to sideways."""
        wide: bool = self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wide

    def check(self) -> None:
        """Nothing went wrong, nothing came from elsewhere, and no address has a key in it."""
        assert self.wrong == []
        host = urlsplit(self.server.url).netloc
        assert {urlsplit(address).netloc for address in self.addresses} == {host}
        timed = self.page.evaluate("performance.getEntries().map(entry => entry.name)")
        for address in [*self.addresses, *timed, self.page.url, *self.server.lines]:
            assert not any(secret in address for secret in SECRETS), address


def fails_first(tab: Tab, address: str, status: int) -> None:
    """The next answer there is a refusal, or what no ebus says."""
    problem = {"detail": "slow down", "code": "rate_limited"}
    body = "<html>" if status == 200 else json.dumps(problem)
    media_type = "text/html" if status == 200 else "application/problem+json"
    tab.page.route(
        address,
        lambda route: route.fulfill(status=status, body=body, content_type=media_type),
        times=1,
    )


Opens = Callable[..., Tab]


@pytest.fixture
def opens(browser: Browser, server: LiveServer) -> Iterator[Opens]:
    """Tabs, each with nothing kept from another; they are looked through at the end."""
    tabs = []

    def tab(size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Tab:
        width, height = size
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        tabs.append(Tab(page, server))
        return tabs[-1]

    yield tab
    for one in tabs:
        one.check()
        one.page.close()


@pytest.fixture
def tab(opens: Opens) -> Tab:
    return opens()
