"""A page on operations → the blocks that a shell runs, in order, and all that is set apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guide.markdown import Guide

NO_COMMANDS = frozenset({"text", "yaml"})
"""What a fence calls that which nobody types."""

_FENCED = re.compile(
    r"(?:^<!-- on your machine only: (?P<reason>[^\n]*) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

_ABSOLUTE = re.compile(r"(?<![\w}$./\"'&+])/(?:etc|opt|var|root|mnt|tmp|usr|srv|home)\b|/\s*$")
"""A path of the machine itself, where one below `$ROOT` is meant."""


_FIRST_WORDS = frozenset(
    {
        "ebus",
        "systemctl",
        "journalctl",
        "curl",
        "nginx",
        "apt-get",
        "promtool",
        "tar",
        "nats-server",
    }
)


@dataclass(frozen=True)
class Block:
    """Something between two fences. `reason` says why it is for the reader's machine only."""

    language: str
    text: str
    line: int
    heading: str
    reason: str | None


class Page:
    """One page of the docs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()

    def blocks(self) -> list[Block]:
        headings = [
            (match.start(), match[1])
            for match in re.finditer(r"^#+ (.*)$", self._without_blocks(), re.MULTILINE)
        ]
        return [
            Block(
                found["language"],
                found["text"],
                self.text.count("\n", 0, found.start("language")) + 1,
                [text for at, text in headings if at < found.start()][-1],
                found["reason"],
            )
            for found in _FENCED.finditer(self.text)
        ]

    def runnable(self) -> list[Block]:
        return [block for block in self.blocks() if block.language == "sh" and block.reason is None]

    def indented(self) -> list[str]:
        """What is set apart by four spaces, which says not whether it is a command."""
        return [block.text for block in Guide(self.path).blocks if block.language == "indented"]

    def commands_in_sentences(self) -> set[str]:
        """Inline code that one could type; `ebus check` and the like are names of commands."""
        return {
            code
            for code in re.findall(r"`([^`]+)`", self._without_blocks())
            if len(code.split()) > 1
            and code.split()[0] in _FIRST_WORDS
            and not re.fullmatch(r"ebus \w+", code)
        }

    def check_every_block(self, reasons: Sequence[str]) -> None:
        """Each is run, or says why not: with these reasons, and no others."""
        for block in self.blocks():
            assert block.language in {"sh", *NO_COMMANDS}, f"line {block.line}"
            assert block.reason is None or block.language == "sh", f"line {block.line}"
        assert [it.reason for it in self.blocks() if it.reason is not None] == list(reasons)
        assert self.indented() == []
        assert self.text.count("\n```") == 2 * len(self.blocks())
        for block in self.runnable():
            assert paths_outside(block) == [], f"line {block.line}"

    def check_every_command(self) -> None:
        """What stands within a sentence, and could be typed, is in a block that is run too."""
        typed = "\n".join(block.text for block in self.runnable())
        for command in self.commands_in_sentences():
            assert re.search(rf"(?<![\w-]){re.escape(command)}(?![\w-])", typed), command

    def _without_blocks(self) -> str:
        """The page with its blocks blanked out: a comment of a shell is no heading."""
        return _FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), self.text)


def paths_outside(block: Block) -> list[str]:
    """Paths in a block that would reach the machine that the test runs on."""
    return [
        line
        for line in block.text.splitlines()
        if _ABSOLUTE.search(line.removesuffix("\\").split(" # ")[0].strip())
    ]
