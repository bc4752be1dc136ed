"""What a run has found out, as it stands in the JSON: figures by case, every round kept."""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

from benchmarks.scale import Scale

FORMAT = 1
"""The version of the JSON's shape."""

Unit = Literal["events/s", "requests/s", "ms", "s", "MiB", "bytes"]


def counted(count: int, noun: str) -> str:
    """How figures are named for numbers of things: `1 tenant`, `10,000 tenants`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Spread(msgspec.Struct, frozen=True):
    """The middle and the ends of what the rounds have given."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, rounds: list[float]) -> Spread:
        return cls(statistics.median(rounds), min(rounds), max(rounds))


class Figure(msgspec.Struct, frozen=True):
    """One thing that was measured, once a round."""

    unit: Unit
    rounds: list[float]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.rounds)


class Result(msgspec.Struct, frozen=True):
    """What one case has found out. Figures of the same round were measured in turns."""

    figures: dict[str, Figure] = msgspec.field(default_factory=dict)

    skipped: dict[str, str] = msgspec.field(default_factory=dict)
    """Figures that were not measured, and why."""

    failure: str = ""
    """Why the case has no figures: a server that did not answer as it must, for example."""

    def add(self, name: str, unit: Unit, value: float) -> None:
        """Note what this round has given for a figure."""
        figure = self.figures.setdefault(name, Figure(unit, []))
        assert figure.unit == unit
        figure.rounds.append(value)

    def ratio(self, name: str, over: str) -> Spread | None:
        """One figure over another, round by round; None when one was not measured."""
        if name not in self.figures or over not in self.figures:
            return None
        pairs = zip(self.figures[name].rounds, self.figures[over].rounds, strict=True)
        return Spread.of([numerator / denominator for numerator, denominator in pairs])

    def floor(self, name: str, floor: str) -> str | None:
        """The figure of a floor, `bare` or `rows`, that was measured like this one, if any.

        Names are made of parts: every part of `bare, 32 connections` but the first is also in
        `append, full, 32 connections`.
        """
        parts = set(name.split(", "))
        found = [
            other
            for other in self.figures
            if other != name
            and other.split(", ")[0] == floor
            and set(other.split(", ")[1:]) <= parts
        ]
        return max(found, key=len, default=None)


class Machine(msgspec.Struct, frozen=True):
    """Where a run took place."""

    cpu: str
    cpus: int
    memory_bytes: int
    kernel: str
    file_system: str
    """The type of the file system with the data, and its mount options."""

    mount: str


class Record(msgspec.Struct, frozen=True):
    """A whole run."""

    format: int
    scale: Scale
    begun: str
    """When, as RFC 3339 in UTC."""

    seconds: float
    commit: str
    dirty: bool
    """Whether the tree held changes that were in no commit."""

    machine: Machine
    versions: dict[str, str]
    results: dict[str, Result]

    def result(self, case: str) -> Result:
        """The case's result, empty when the run left it out."""
        return self.results.get(case, Result())


def encode_record(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode_record(text: bytes) -> Record:
    """The reverse of `encode_record`. Raises `ValueError` for another format."""
    record = msgspec.json.decode(text, type=Record)
    if record.format != FORMAT:
        raise ValueError(f"the figures have format {record.format}, known is {FORMAT}")
    return record
