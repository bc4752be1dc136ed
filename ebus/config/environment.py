"""Environment variables: how each is read, and which field of `Config` it sets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ebus.config.durations import parse_duration
from ebus.config.mistakes import Mistake, Reading, Wrong
from ebus.config.model import Rate
from ebus.config.nodes import MAX_WHOLE_NUMBER


class Variable(msgspec.Struct, frozen=True):
    """One environment variable. `read` returns the field's value or raises `Wrong`."""

    field: str
    read: Callable[[str], Any]
    example: str
    is_secret: bool = False


_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_DECIMAL_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,9})?")
MAX_RATE = 1_000_000_000
MAX_PORT = 65_535

_SWITCH = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Reads plain decimal digits. What else `int` takes is more likely a slip than a number."""

    def read(text: str) -> int:
        if _WHOLE_NUMBER.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        raise Wrong(f"is no whole number from {least} to {most} in plain digits")

    return read


def parse_rate(text: str) -> float:
    """So many a second: more than 0, in plain decimal digits."""
    if _DECIMAL_NUMBER.fullmatch(text) and 0 < float(text) <= MAX_RATE:
        return float(text)
    raise Wrong("is no number a second, more than 0; unset, there is no limit")


def usual_burst(per_second: float) -> int:
    """Two seconds' worth, rounded up to a whole rate first.

    So it is at least 2: a client that has been quiet is not refused its second request.
    """
    return 2 * math.ceil(per_second)


def parse_switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise Wrong("is neither true nor false") from None


def parse_exporter(text: str) -> bool:
    """Whether anything is exported."""
    try:
        return {"otlp": True, "none": False}[text]
    except KeyError:
        raise Wrong("is neither otlp nor none") from None


VARIABLES = {
    "PORT": Variable("port", whole_number(0, MAX_PORT), "8080"),
    "RATE_LIMIT": Variable("rate_limit", parse_rate, "100"),
    "RATE_BURST": Variable("rate_burst", whole_number(1, MAX_RATE), "200"),
    "ENABLE_GZIP": Variable("enable_gzip", parse_switch, "true"),
    "ENABLE_UI": Variable("enable_ui", parse_switch, "false"),
    "READ_TIMEOUT": Variable("read_timeout_s", parse_duration, "30s"),
    "WRITE_TIMEOUT": Variable("write_timeout_s", parse_duration, "60s"),
    "IDLE_TIMEOUT": Variable("idle_timeout_s", parse_duration, "120s"),
    "SHUTDOWN_TIMEOUT": Variable("shutdown_timeout_s", parse_duration, "30s"),
    "OTEL_TRACES_EXPORTER": Variable("traces", parse_exporter, "otlp"),
}
"""What is read with a config file and without one."""

LIMIT_VARIABLES = {
    "MAX_CONNECTIONS": Variable("max_connections", whole_number(1, MAX_WHOLE_NUMBER), "4096"),
    "MAX_INFLIGHT_BODY_BYTES": Variable(
        "max_inflight_body_bytes", whole_number(1, MAX_WHOLE_NUMBER), "268435456"
    ),
}
"""Those of `Limits` that depend on the machine. They go before what a config file says."""


def read_environment(environment: Mapping[str, str]) -> Reading:
    """What the variables say, and every mistake; `limits` as a dict. Never raises."""
    fields, mistakes = read_variables(VARIABLES, environment)
    limits, wrong_limits = read_variables(LIMIT_VARIABLES, environment)
    fields["limits"] = limits
    mistakes += wrong_limits
    limit, burst = fields.pop("rate_limit", None), fields.pop("rate_burst", None)
    if limit is not None:
        fields["request_rate"] = Rate(limit, burst or usual_burst(limit))
    elif environment.get("RATE_BURST") and not environment.get("RATE_LIMIT"):
        message = "there is no rate limit to burst over; write RATE_LIMIT=100, or unset it"
        mistakes.append(Mistake("RATE_BURST", message))
    return Reading(fields, mistakes, [])


def read_variables(
    variables: Mapping[str, Variable], environment: Mapping[str, str]
) -> tuple[dict[str, Any], list[Mistake]]:
    """The fields that are set. An empty variable counts as unset."""
    fields: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, variable in variables.items():
        text = environment.get(name)
        if not text:
            continue
        try:
            fields[variable.field] = variable.read(text)
        except Wrong as wrong:
            subject = "the key" if variable.is_secret else _shortened(text)
            example = wrong.write or variable.example
            message = f"{subject} {wrong.problem}; write {name}={example}"
            mistakes.append(Mistake(name, message))
    return fields, mistakes


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:36]!r}..."
