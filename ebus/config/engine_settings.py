"""A mapping in the place of an engine's address → that address.

    engine:
      nats: {servers: ["h1:4222", "h2:4222"], replicas: 3}

Which settings there are, and what each may be, the engine itself says: see `SupportsSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from yaml.nodes import MappingNode, Node, ScalarNode

from ebus.config.mistakes import FileMistakes, Wrong
from ebus.config.nodes import (
    Key,
    Reader,
    Section,
    line_of,
    list_of,
    mapping,
    parsed_by,
    read_line,
    read_switch,
    text_of,
    told,
)
from ebus.core.address import Setting, SupportsSettings
from ebus.core.engine import engine_names, settings_of
from ebus.core.errors import EngineError, InvalidInput


def read_engine(node: Node, mistakes: FileMistakes) -> str | None:
    """An engine's name or its address as it stands there, or the address that a mapping says.

    None where the mapping has mistakes.
    """
    if not isinstance(node, MappingNode):
        return read_line(node, mistakes)
    if len(node.value) != 1:
        raise Wrong("must name one engine, and below it what that is told")
    engines = {name: Key(_settings_reader(name), "{…}") for name in engine_names()}
    section: Section = mapping(engines)(node, mistakes)
    address: str | None = next(iter(section.values.values()), None)
    return address


def settings_example(settings: SupportsSettings) -> str:
    """The first of them, as in `{servers: ["localhost:4222"]}`."""
    name, setting = next(iter(settings.settings.items()))
    return f"{{{name}: {setting.example}}}"


def _settings_reader(name: str) -> Reader:
    """Reads what stands below an engine's name into an address."""

    def read(node: Node, mistakes: FileMistakes) -> str | None:
        try:
            settings = settings_of(name)
        except EngineError as error:  # its driver is missing
            mistakes.add(line_of(node), str(error))
            return None
        if settings is None:
            mistakes.add(line_of(node), f"{name} takes no settings; write `engine: {name}`")
            return None
        keys = _keys(settings.settings)
        try:
            section: Section = mapping(keys)(node, mistakes)
        except Wrong as wrong:
            mistakes.add(line_of(node), told(name, wrong, settings_example(settings)))
            return None
        given = _flat(section)
        if len(given.values) < len(given.lines):
            return None  # one of them has been told already
        values = {name: text for name, text in given.values.items() if name in settings.settings}
        problems = settings.contradictions(values, str)
        for setting, problem in problems:
            if setting in given.lines:
                mistakes.add(given.lines[setting], f"{setting} {problem}")
            else:
                example = settings.settings[setting].example
                mistakes.add(section.line, told(setting, Wrong(problem), example))
        return None if problems else settings.address(values)

    return read


class _Given(msgspec.Struct, frozen=True):
    """The settings of a mapping and of those within it, by their names with dots."""

    values: dict[str, str]
    lines: dict[str, int]


def _flat(section: Section) -> _Given:
    given = _Given({}, dict(section.lines))
    for name, value in section.values.items():
        if not isinstance(value, Section):
            given.values[name] = value
            continue
        given.values[name] = _WITH_MORE
        given.values.update({f"{name}.{inner}": text for inner, text in value.values.items()})
        given.lines.update({f"{name}.{inner}": line for inner, line in value.lines.items()})
    return given


_WITH_MORE = "true"
"""What a switch is whose place a mapping has taken, as in `tls: {ca: …}`."""


def _keys(settings: Mapping[str, Setting]) -> dict[str, Key]:
    """The keys of a mapping. Names with a dot are those of a mapping within it."""
    inner: dict[str, dict[str, Setting]] = {}
    for name, setting in settings.items():
        outer, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(outer, {})[rest] = setting
    keys: dict[str, Key] = {}
    for name in dict.fromkeys(name.partition(".")[0] for name in settings):
        one, more = settings.get(name), inner.get(name)
        if more is not None:
            first, first_setting = next(iter(more.items()))
            example = f"{{{first}: {first_setting.example}}}"
            keys[name] = Key(_with_more(one, mapping(_keys(more))), example)
        elif one is not None:
            keys[name] = Key(_reader(one), one.example)
    return keys


def _with_more(setting: Setting | None, read_more: Reader) -> Reader:
    """Reads a mapping, or the value of a setting that may have one in its place."""
    if setting is None:
        return read_more
    read_one = _reader(setting)

    def read(node: Node, mistakes: FileMistakes) -> Section | str:
        is_one = isinstance(node, ScalarNode)
        value: Section | str = (read_one if is_one else read_more)(node, mistakes)
        return value

    return read


def _reader(setting: Setting) -> Reader:
    """Reads a setting's value as its text in an address."""

    def checked(text: str) -> str:
        if problem := _problem(setting, text):
            raise Wrong(problem)
        return text

    def read_scalar(node: Node, mistakes: FileMistakes) -> str:
        match setting.kind:
            case "secret":
                return checked(text_of(node, shown=False))
            case "number":
                return checked(_read_number(node, mistakes))
            case "switch":
                return checked("true" if read_switch(node, mistakes) else "false")
            case _:
                return checked(read_line(node, mistakes))

    def read_item(node: Node, mistakes: FileMistakes) -> str:
        text = read_line(node, mistakes)
        if "," in text:
            raise Wrong("holds a comma: write one in each line")
        return checked(text)

    if setting.kind != "texts":
        return read_scalar
    read_all = list_of("one of these", read_item, example=setting.example.strip("[]"))

    def read_list(node: Node, mistakes: FileMistakes) -> str | None:
        items = read_all(node, mistakes)
        return checked(",".join(items)) if items else None

    return read_list


_read_number = parsed_by(str, "int", "float")


def _problem(setting: Setting, text: str) -> str | None:
    """What is wrong with it. The error goes no further: what it was raised in has a secret."""
    try:
        setting.read(text)
    except InvalidInput as error:
        return str(error)
    return None
