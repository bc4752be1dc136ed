"""Somebody who does what a guide says, in a directory of their own."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import sys
from collections import defaultdict
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Any

import httpx

from tests.conftest import ROOT
from tests.guide.answers import assert_answered, assert_same_json, assert_same_log, assert_went_well
from tests.guide.markdown import Block, Guide
from tests.guide.shell import TIMEOUT_S, Output, Shell, steps_of
from tests.guide.substitutions import SUBSTITUTIONS
from tests.live_server import LiveServer

_TYPED = {"bash", "command", "indented"}
_COMMANDS = ("curl ", "ebus ")
_ONLY_OWN = re.compile(r"Returns only (\w+)'s events")


class Reader:
    """`follow` does what blocks say and compares with what they show.

    `unread` are the blocks of the sections under test that have not been followed yet. There is
    one server at a time, which a block has started, and it is stopped when the reader leaves.
    """

    def __init__(self, guide: Guide, unread: list[Block], shell: Shell, directory: Path) -> None:
        self.guide = guide
        self.unread = unread
        self.shell = shell
        self.directory = directory / "reader"
        self.directory.mkdir(parents=True)
        self.published: defaultdict[str, list[Any]] = defaultdict(list)
        """The data of the events that blocks have appended, by the key they went with."""
        self.client = httpx.Client(timeout=60, verify=False)  # nothing here is TLS
        self._notes = directory
        self._numbers = itertools.count(1)
        self._server: LiveServer | None = None
        self._start = ""
        self._last: Output | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        try:
            if self._server is not None and error is None:
                self.stop()
        finally:
            if self._server is not None:
                self._server.kill()

    # Following

    def take(self, language: str, containing: str = "") -> Block:
        """The next block that is unread, which must be such a one."""
        assert self.unread, f"{self.guide.path.name} has no {language} block here any more"
        block = self.unread.pop(0)
        expected = f"{self.guide.place(block)}: a {language} block with {containing!r} is expected"
        assert block.language == language, expected
        assert containing in block.text, expected
        return block

    def follow_all(self, heading: str = "") -> list[Output]:
        """Follow what is unread, to the end, or what is unread below a heading."""
        blocks = [one for one in self.unread if not heading or heading in one.headings]
        return [output for block in blocks for output in self.follow(block)]

    def follow(self, block: Block) -> list[Output]:
        """Do what it says, or compare with what it shows. Returns what its commands printed."""
        if block in self.unread:
            self.unread.remove(block)
        try:
            return self._follow(block)
        except Exception as error:
            error.add_note(f"{self.guide.place(block)}:\n{block.text}")
            raise

    def _follow(self, block: Block) -> list[Output]:
        text = self.said(block.text)
        if block.language in _TYPED or (block.language == "" and text.startswith(_COMMANDS)):
            return self.run(text)
        if block.language == "yaml":
            self.write_config(text)
        elif block.language == "json":
            assert self._last, "there was no command that it could be the answer to"
            assert_same_json(self._last, text)
        elif block.language == "" and text.startswith("data/\n"):
            self._assert_listing(text)
        elif block.language == "":
            assert_same_log(text, self.server.lines)
        else:
            raise AssertionError("nothing is known of how to follow this block")
        return []

    def run(self, text: str) -> list[Output]:
        """Type it, and compare what each command prints with the answer below it."""
        steps = steps_of(text)
        if len(steps) == 1 and steps[0].serves:
            self.start(text)
            return []
        notes = self._notes / f"run-{next(self._numbers)}"
        outputs = self.shell.run(text, cwd=self.directory, notes=notes)
        for output in outputs:
            self._note_published(output)
            if only_own := _ONLY_OWN.fullmatch(output.step.answer):
                self._assert_only_own(output, only_own[1])
            else:
                assert_answered(output)
        assert len(outputs) == len(steps), f"the block ended at: {outputs[-1].step.command}"
        self._last = outputs[-1]
        return outputs

    def said(self, text: str) -> str:
        """The text with what is real in place of what stands for it."""
        for phrase, real in SUBSTITUTIONS.items():
            pieces = text.split(phrase)
            text = pieces[0] + "".join(self._real(real) + piece for piece in pieces[1:])
        return text

    def _real(self, template: str) -> str:
        return Template(template).substitute(
            port=self.server.port if "$port" in template else "",
            number=next(self._numbers),
            python=shlex.quote(sys.executable),
            clone=shlex.quote(str(ROOT)),
        )

    def _note_published(self, output: Output) -> None:
        words = output.step.words
        if words[:1] != ["curl"] or "-d" not in words or output.http_statuses != (200,):
            return
        sent = json.loads(words[words.index("-d") + 1])
        events = sent if isinstance(sent, list) else [sent]
        self.published[_key(words)] += [event["data"] for event in events]

    def _assert_only_own(self, output: Output, name: str) -> None:
        assert_went_well(output)
        key = _key(output.step.words)
        assert key.startswith(name.lower())
        events = json.loads(output.stdout)
        assert [event["data"] for event in events] == self.published[key] != []

    def _assert_listing(self, text: str) -> None:
        top, *lines = text.splitlines()
        shown = [re.sub(r"^[├└]── ", "", line) for line in lines]
        assert sorted(os.listdir(self.directory / top)) == shown

    # The server

    @property
    def server(self) -> LiveServer:
        assert self._server is not None, "no block has started a server"
        return self._server

    def start(self, text: str) -> None:
        assert self._server is None, "a server runs already"
        server = self.shell.start(text, cwd=self.directory)
        try:
            server.wait_until_listening()
        except BaseException:
            server.kill()
            raise
        self._server, self._start = server, text

    def stop(self, number: int = signal.SIGINT) -> str:
        """As Ctrl-C does. The server must end well. Returns everything it has logged."""
        server = self.server
        status = server.stop(number)
        self._server = None
        assert status == 0, f"the server ended with status {status}:\n{server.log}"
        assert "Traceback" not in server.log, server.log
        return server.log

    def start_again(self) -> None:
        """What the guide calls `restart the server`, after a stop."""
        self.start(self._start)

    def ending(self, text: str) -> tuple[int, str]:
        """The exit status and the log of a server that ends by itself."""
        server = self.shell.start(text, cwd=self.directory)
        try:
            status = server.process.wait(TIMEOUT_S)
            return server.stop() or status, server.log
        finally:
            server.kill()

    # What a guide says in words only

    @property
    def config_file(self) -> Path:
        return self.directory / "tenants.yaml"

    def write_config(self, text: str) -> None:
        self.config_file.write_text(f"{text}\n")

    def get(self, path: str, key: str) -> httpx.Response:
        return self.client.get(self.server.url + path, headers={"X-API-Key": key})

    def append(self, key: str, *data: object) -> None:
        """Append events of our own making, and see that they are acknowledged."""
        answer = self.client.post(
            f"{self.server.url}/events/batch",
            headers={"X-API-Key": key},
            json=[{"type": "OrderPlaced", "data": one} for one in data],
        )
        assert answer.status_code == 200, answer.text

    def data(self, key: str) -> list[Any]:
        """The data of all events of a tenant."""
        answer = self.get("/events?from=1", key)
        assert answer.status_code == 200, answer.text
        return [event["data"] for event in answer.json()]


def _key(words: list[str]) -> str:
    [key] = [word.removeprefix("X-API-Key: ") for word in words if word.startswith("X-API-Key: ")]
    return key
