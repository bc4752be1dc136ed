"""YAML nodes → values, each read as its key's table says, with the line of every mistake.

A reader takes a node and returns its value. It raises `Wrong` when the node as a whole is not
what it should be, and adds to the mistakes what is wrong further down. Readers go as deep as
the tables do, never as deep as the file, so an alias that leads back to itself is harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

import msgspec
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ebus.config.mistakes import FileMistakes, Wrong

Reader: TypeAlias = Callable[[Node, FileMistakes], Any]


class Key(msgspec.Struct, frozen=True):
    """A key of a mapping: how its value is read, and an example as it stands in the file."""

    read: Reader
    example: str
    required: bool = False


class Section(msgspec.Struct, frozen=True):
    """A mapping that was read. Lines count from 1."""

    line: int
    values: dict[str, Any]
    """The values without a mistake, by key."""

    lines: dict[str, int]
    """Where each known key stands, whether its value could be read or not."""


def line_of(node: Node) -> int:
    return int(node.start_mark.line) + 1


def mapping(keys: Mapping[str, Key], *, elsewhere: Mapping[str, str] | None = None) -> Reader:
    """Reads a mapping with these keys into a `Section`.

    `elsewhere` says of keys that are unknown here, but known to users, where they belong.
    """

    def read(node: Node, mistakes: FileMistakes) -> Section:
        if not isinstance(node, MappingNode) or node.tag != _YAML + "map":
            raise Wrong(_unlike("a mapping", node))
        section = Section(line_of(node), {}, {})
        for key_node, value in node.value:
            line = line_of(key_node)
            name = key_node.value if isinstance(key_node, ScalarNode) else ""
            if name not in keys:
                mistakes.add(line, _unknown(name, keys, elsewhere or {}))
            elif name in section.lines:
                first = section.lines[name]
                mistakes.add(line, f"duplicate key {name}: line {first} has it too; keep one")
            else:
                section.lines[name] = line
                try:
                    section.values[name] = keys[name].read(value, mistakes)
                except Wrong as wrong:
                    mistakes.add(line, told(name, wrong, keys[name].example))
        for name, key in keys.items():
            if key.required and name not in section.lines:
                mistakes.add(section.line, told(name, Wrong("is missing"), key.example))
        return section

    return read


def told(name: str, wrong: Wrong, example: str) -> str:
    """What is wrong with a key's value, and what to write instead."""
    return f"{name} {wrong.problem}; write `{name}: {wrong.write or example}`"


def list_of(one: str, read_one: Reader, *, example: str) -> Reader:
    """Reads a list of at least one. `one` is what its items are called: `a tenant`."""

    def read(node: Node, mistakes: FileMistakes) -> list[Any]:
        if not isinstance(node, SequenceNode) or node.tag != _YAML + "seq":
            raise Wrong(_unlike("a list", node))
        if not node.value:
            raise Wrong("is empty")
        values = []
        for item in node.value:
            try:
                values.append(read_one(item, mistakes))
            except Wrong as wrong:
                mistakes.add(line_of(item), f"{one} {wrong.problem}; write `- {example}`")
        return values

    return read


_YAML = "tag:yaml.org,2002:"

_KINDS = {
    "bool": "true or false",
    "float": "a number",
    "int": "a number",
    "map": "a mapping",
    "null": "nothing",
    "seq": "a list",
    "str": "text",
    "timestamp": "a date",
}


def _kind(node: Node) -> str:
    """What the node is, in a user's words. A tag of the user's own is not repeated."""
    return _KINDS.get(node.tag.removeprefix(_YAML), "something with a tag")


def _is_empty(node: Node) -> bool:
    return node.tag == _YAML + "null" and not node.value


_QUOTABLE = re.compile(r"[^\W_][\w .:+-]*")


def read_text(node: Node, mistakes: FileMistakes) -> str:
    """Text that is not empty. What YAML takes for something else has to be quoted."""
    return text_of(node, shown=True)


def text_of(node: Node, *, shown: bool) -> str:
    """Like `read_text`. Messages repeat the value only when it may be `shown`."""
    if _is_empty(node):
        raise Wrong("is empty")
    if not isinstance(node, ScalarNode):
        raise Wrong(f"must be text, not {_kind(node)}")
    if node.tag != _YAML + "str":
        quoted = f'"{node.value}"' if shown and _QUOTABLE.fullmatch(node.value) else None
        raise Wrong(f"is {_kind(node)} to YAML unless it is quoted", write=quoted)
    text: str = node.value
    if not text.strip():
        raise Wrong("is empty")
    return text


def read_line(node: Node, mistakes: FileMistakes) -> str:
    """Text that is not empty and holds no line break or other control character."""
    text = read_text(node, mistakes)
    if not text.isprintable():
        raise Wrong("must not hold line breaks or control characters")
    return text


def read_directory(node: Node, mistakes: FileMistakes) -> str:
    """A directory. One called `~` is meant by nobody, and `rm -r ~` would remove another."""
    directory = read_line(node, mistakes)
    if directory.startswith("~"):
        raise Wrong("must be a full path or one relative to where ebus starts: ~ is not expanded")
    return directory


def choice(*choices: str) -> Reader:
    """Reads one of these words."""

    def read(node: Node, mistakes: FileMistakes) -> str:
        if _is_empty(node):
            raise Wrong("is empty")
        if node.tag != _YAML + "str" or node.value not in choices:
            raise Wrong(f"must be {' or '.join(choices)}")
        return str(node.value)

    return read


MAX_WHOLE_NUMBER = 2**31 - 1
"""What every driver can take as a bound or a time."""

_WHOLE_NUMBER = re.compile(r"[1-9][0-9]{0,18}")  # YAML's own have octal, 0x1f, 1_000, 1:30


def whole_number_to(most: int) -> Reader:
    """Reads a whole number from 1 on, in plain decimal digits."""

    def read(node: Node, mistakes: FileMistakes) -> int:
        if _is_empty(node):
            raise Wrong("is empty")
        if node.tag == _YAML + "int" and _WHOLE_NUMBER.fullmatch(node.value):
            number = int(node.value)
            if number <= most:
                return number
        raise Wrong(f"must be a whole number from 1 to {most}, in digits without quotes")

    return read


read_whole_number = whole_number_to(MAX_WHOLE_NUMBER)


def parsed_by(parse: Callable[[str], Any], *kinds: str) -> Reader:
    """Reads what `parse` makes of a plain value that is one of these kinds to YAML."""
    tags = [_YAML + kind for kind in kinds]

    def read(node: Node, mistakes: FileMistakes) -> Any:
        if _is_empty(node):
            raise Wrong("is empty")
        if node.tag not in tags:
            raise Wrong(_unlike(" or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds)), node))
        return parse(node.value)

    return read


def read_switch(node: Node, mistakes: FileMistakes) -> bool:
    """Reads what YAML takes for true or false."""
    if not isinstance(node, ScalarNode) or node.tag != _YAML + "bool":
        raise Wrong(_unlike("true or false", node))
    return node.value.lower() in {"true", "yes", "on"}


def _unlike(expected: str, node: Node) -> str:
    return "is empty" if _is_empty(node) else f"must be {expected}, not {_kind(node)}"


_WORD = re.compile(r"[a-z_]{1,20}")
_NEAR_WORD = re.compile(r"[A-Za-z0-9_-]+")


def _unknown(name: str, keys: Mapping[str, Key], elsewhere: Mapping[str, str]) -> str:
    """What to say of an unknown key. Only one that reads like a setting's name is repeated:
    a key in the wrong place could be an API key."""
    if name in elsewhere:
        return f"unknown key {name}: {elsewhere[name]}"
    for known in keys:
        if name.startswith((f"{known}:", f"{known}=")):
            return f"unknown key; write a colon and a space after {known}"
    near = get_close_matches(name[:40].lower().replace("-", "_"), keys, n=1)
    like_near = near and _NEAR_WORD.fullmatch(name) and len(name) <= len(near[0]) + 2
    shown = f" {name}" if like_near or _WORD.fullmatch(name) else ""
    if near:
        return f"unknown key{shown}; did you mean {near[0]}?"
    return f"unknown key{shown}; known here are {', '.join(keys)}"
