"""The page on operations → the blocks that a shell runs, in order, and all that is set apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.conftest import ROOT
from tests.guide.markdown import Guide

PAGE = ROOT / "docs" / "operations.md"

ON_YOUR_MACHINE = ("it installs packages and makes a user",)
"""Why a block is not run: all the reasons that there may be."""

NO_COMMANDS = frozenset({"text", "yaml"})
"""What a fence calls that which nobody types."""

_FENCED = re.compile(
    r"(?:^<!-- on your machine only: (?P<reason>[^\n]*) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

_ABSOLUTE = re.compile(r"(?<![\w}$./\"'&+])/(?:etc|opt|var|root|mnt|tmp|usr|srv|home)\b|/\s*$")
"""A path of the machine itself, where one below `$ROOT` is meant."""


@dataclass(frozen=True)
class Block:
    """Something between two fences. `reason` says why it is for the reader's machine only."""

    language: str
    text: str
    line: int
    heading: str
    reason: str | None


def blocks() -> list[Block]:
    page = PAGE.read_text()
    headings = [
        (match.start(), match[1])
        for match in re.finditer(r"^#+ (.*)$", _without_blocks(page), re.MULTILINE)
    ]
    return [
        Block(
            found["language"],
            found["text"],
            page.count("\n", 0, found.start("language")) + 1,
            [text for at, text in headings if at < found.start()][-1],
            found["reason"],
        )
        for found in _FENCED.finditer(page)
    ]


def _without_blocks(page: str) -> str:
    """The page with its blocks blanked out: a comment of a shell is no heading."""
    return _FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), page)


def runnable() -> list[Block]:
    return [block for block in blocks() if block.language == "sh" and block.reason is None]


def paths_outside(block: Block) -> list[str]:
    """Paths in a block that would reach the machine that the test runs on."""
    return [
        line
        for line in block.text.splitlines()
        if _ABSOLUTE.search(line.removesuffix("\\").split(" # ")[0].strip())
    ]


def indented() -> list[str]:
    """What is set apart by four spaces, which says not whether it is a command."""
    return [block.text for block in Guide(PAGE).blocks if block.language == "indented"]


def commands_in_sentences() -> set[str]:
    """Inline code that one could type; `ebus check` and the like are names of commands."""
    prose = _without_blocks(PAGE.read_text())
    first_words = {"ebus", "systemctl", "journalctl", "curl", "nginx", "apt-get", "promtool", "tar"}
    return {
        code
        for code in re.findall(r"`([^`]+)`", prose)
        if len(code.split()) > 1
        and code.split()[0] in first_words
        and not re.fullmatch(r"ebus \w+", code)
    }
