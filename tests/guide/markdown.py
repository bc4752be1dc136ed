"""A Markdown page → its blocks and commands, each with its line and the headings above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMMANDS = frozenset(("chmod", "cp", "curl", "ebus", "./ebus", "make", "mv", "pip", "rm", "tar"))
"""Inline code of several words that begins with one of these is something to type."""

_HEADING = re.compile(r"(#{1,6}) (?:\d+\. )?(.+?) *")
_FENCE = re.compile(r"( *)```(\w*) *")
_INLINE_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """Something set apart as code. `language` is the fence's word.

    It is "indented" for a block that is set apart by four spaces, and "command" for a command
    within a sentence.
    """

    language: str
    text: str
    line: int
    headings: tuple[str, ...]

    @property
    def is_set_apart(self) -> bool:
        return self.language != "command"


@dataclass(frozen=True)
class Paragraph:
    """Lines of prose without an empty one between them, joined into one."""

    text: str
    line: int
    headings: tuple[str, ...]


class Guide:
    """A page. Headings are given without the number of a step that they may begin with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = list(_parts(path.read_text(encoding="utf-8").splitlines()))
        paragraphs = [part for part in parts if isinstance(part, Paragraph)]
        blocks = [part for part in parts if isinstance(part, Block)]
        for paragraph in paragraphs:
            blocks += _commands_within(paragraph)
        self.blocks = sorted(blocks, key=lambda block: block.line)
        self._paragraphs = paragraphs
        self._headings = {heading for part in parts for heading in part.headings}

    def section(self, heading: str) -> list[Block]:
        """The blocks and commands below a heading, those of its sub-headings included."""
        assert heading in self._headings, f"{self.path.name} has no section {heading!r}"
        return [block for block in self.blocks if heading in block.headings]

    def sentence(self, heading: str, pattern: str) -> str:
        """What the pattern's group matches in the prose below a heading."""
        prose = "\n".join(part.text for part in self._paragraphs if heading in part.headings)
        found = re.search(pattern, prose)
        assert found, f"{self.path.name}, {heading}: there is no sentence {pattern!r} any more"
        return found[1]

    def place(self, block: Block) -> str:
        return f"{self.path.name}, line {block.line}"


def _parts(lines: list[str]) -> Iterator[Block | Paragraph]:
    outline: list[tuple[int, str]] = []
    headings: tuple[str, ...] = ()
    prose: list[str] = []
    begin = at = 0
    while at < len(lines):
        line = lines[at]
        ends_paragraph = not line.strip() or _FENCE.fullmatch(line) or _HEADING.fullmatch(line)
        if prose and ends_paragraph:
            yield Paragraph(" ".join(map(str.strip, prose)), begin + 1, headings)
            prose = []
        if fence := _FENCE.fullmatch(line):
            end = lines.index(f"{fence[1]}```", at + 1)
            code = [inner.removeprefix(fence[1]) for inner in lines[at + 1 : end]]
            yield Block(fence[2], "\n".join(code), at + 1, headings)
            at = end
        elif heading := _HEADING.fullmatch(line):
            level = len(heading[1])
            outline = [outer for outer in outline if outer[0] < level] + [(level, heading[2])]
            headings = tuple(text for _, text in outline)
        elif line.startswith("    ") and line.strip() and not prose:
            end = _end_of_indented(lines, at)
            code = [inner.removeprefix("    ") for inner in lines[at:end]]
            yield Block("indented", "\n".join(code).strip(), at + 1, headings)
            at = end - 1
        elif line.strip():
            assert not line.lstrip().startswith(("```", "~~~")), f"line {at + 1}: {line}"
            begin = begin if prose else at
            prose.append(line)
        at += 1
    if prose:
        yield Paragraph(" ".join(map(str.strip, prose)), begin + 1, headings)


def _end_of_indented(lines: list[str], at: int) -> int:
    while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
        at += 1
    return at


def _commands_within(paragraph: Paragraph) -> Iterator[Block]:
    for code in _INLINE_CODE.findall(paragraph.text):
        words = code.split()
        if len(words) > 1 and words[0] in COMMANDS:
            yield Block("command", code, paragraph.line, paragraph.headings)
