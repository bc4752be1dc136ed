"""A file → the root node of its one YAML document, or what keeps it from being one.

PyYAML's own messages are never passed on: they quote the source, and the source holds keys.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from codecs import BOM_UTF8
from hashlib import sha256
from typing import Any

import msgspec
import yaml
from yaml.nodes import Node

from ebus.config.mistakes import FileMistakes, Wrong

LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C when PyYAML has it: four times as fast."""

MAX_FILE_BYTES = 16 * 1024 * 1024
"""A larger file is no configuration: ten thousand tenants take about one MiB."""

MAX_DEPTH = 32
"""How deeply a file may nest. PyYAML composes by recursion, and its loader in C does not
survive a hundred thousand levels."""


class ConfigFile(msgspec.Struct, frozen=True):
    """What stood in a config file when it was read."""

    data: bytes

    warnings: list[str]
    """That others may look into it."""

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the bytes."""
        return sha256(self.data).digest()


def read_config_file(path: str, *, again: bool = False) -> ConfigFile:
    """The file as it is now. Raises `Wrong`.

    What can be read only once, such as a pipe, is refused where it is read `again`: to open it
    might wait forever.
    """
    try:
        if again and not stat.S_ISREG(os.stat(path).st_mode):
            raise Wrong("no regular file, which alone can be read again")
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise Wrong(_reason(error.errno)) from None
    except ValueError:  # a path that no file can have: it holds a NUL or a lone surrogate
        raise Wrong(_reason(errno.ENOENT)) from None
    if len(data) > MAX_FILE_BYTES:
        raise Wrong(f"larger than {MAX_FILE_BYTES} bytes")
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or not mode & 0o077:
        return ConfigFile(data, [])
    warning = (
        f"{path} holds API keys, and its mode {mode:o} lets other users of this machine at it: "
        f"chmod 600 {shlex.quote(path)}"
    )
    return ConfigFile(data, [warning])


def _reason(number: int | None) -> str:
    """What the system says of an error, in the middle of a sentence."""
    reason = os.strerror(number or errno.EIO)
    return reason[:1].lower() + reason[1:]


# What YAML forbids. Looked for here because the loaders report it without a line.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse_document(data: bytes, mistakes: FileMistakes) -> Node | None:
    """The root node; None when there is none, and then a mistake says why."""
    data = data.removeprefix(BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        mistakes.add(data.count(b"\n", 0, error.start) + 1, "not UTF-8; save the file as UTF-8")
        return None
    if forbidden := _FORBIDDEN.search(text):
        line = text.count("\n", 0, forbidden.start()) + 1
        mistakes.add(line, "a control character, which YAML does not allow; remove it")
        return None
    try:
        try:
            root = yaml.compose(text, Loader=_shallow(LOADER))
        except _PerhapsTooDeep:
            if line := _line_nested_too_deeply(text):
                mistakes.add(line, f"nested more than {MAX_DEPTH} levels deep; no setting is")
                return None
            root = yaml.compose(text, Loader=LOADER)
    except yaml.YAMLError as error:
        mistakes.add(*_explained(error))
        return None
    if root is None or (root.tag.endswith(":null") and not root.value):
        mistakes.add(1, 'the file is empty; write `tenants: [{name: "alice", api_key: "…"}]`')
        return None
    return root


class _PerhapsTooDeep(Exception):
    """There are nodes within more than `MAX_DEPTH` levels, if only plain values."""


class _LevelCount:
    """Mixed into a loader, breaks its recursion off before it goes too deep.

    Both loaders call these two methods around each node that they compose, for resolvers of
    tags by path. ebus has none, so that counting costs no more than PyYAML's finding that out.
    """

    _level = 0

    def descend_resolver(self, parent: object, index: object) -> None:
        self._level += 1
        if self._level > MAX_DEPTH:
            raise _PerhapsTooDeep

    def ascend_resolver(self) -> None:
        self._level -= 1


def _shallow(loader: type[yaml.SafeLoader]) -> type[yaml.SafeLoader]:
    return type("_ShallowLoader", (_LevelCount, loader), {})


def _line_nested_too_deeply(text: str) -> int:
    """The first such line, 0 when there is none. Events come one by one, without recursion.

    Exact, but it takes as long as composing does.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return _line(event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return 0


# What PyYAML's two loaders say, in part → what to say instead. The first that fits is taken;
# _OPENED marks those where the line that counts is where a thing was opened.
_ADVICE = (
    ("another document", "a second YAML document begins here; keep one, and remove this line"),
    ("scanning a directive", "a line that begins with % is a YAML directive; remove it"),
    ("undefined tag handle", "quote a value that begins with !"),
    ("a tag", "quote a value that begins with !"),
    ("alias", "quote a value that begins with *"),
    ("anchor", "quote a value that begins with &"),
    ("second occurrence", "quote a value that begins with &"),
    (
        "cannot start any token",
        "indent with spaces, not tabs; quote a value with @ ` or % in front",
    ),
    ("quoted scalar found unexpected end", "a quotation mark is opened here and never closed"),
    ("flow", "a [ or { is opened here and never closed, or a comma is missing in between"),
    ("escape", "write a backslash twice between double quotation marks"),
    ("hexdecimal", "write a backslash twice between double quotation marks"),
    ("block scalar", "quote a value that begins with | or >"),
    (
        "values are not allowed",
        "a colon is out of place: write `key: value` with a space after the colon, indent it "
        "like its neighbours, and quote a value that holds a colon",
    ),
    (
        "expected",
        "this does not fit the lines above: indent it like its neighbours, and write nothing "
        "after a closing quotation mark",
    ),
)
_OPENED = ("quoted scalar found unexpected end", "flow")


def _explained(error: yaml.YAMLError) -> tuple[int, str]:
    """The line of a syntax error, and what to do about it."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return 1, "not YAML"
    words = f"{error.context or ''} {error.problem or ''}"
    for part, advice in _ADVICE:
        if part in words:
            mark = error.context_mark if part in _OPENED else error.problem_mark
            return _line(mark), f"not YAML: {advice}"
    return _line(error.problem_mark), "not YAML"


def _line(mark: Any) -> int:
    """The line of a mark, from 1. The two loaders have a class of marks each."""
    return int(mark.line) + 1 if mark else 1
