"""Does what was printed agree with the answer that a guide shows?"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from tests.guide.shell import Output

CLOSE_S = 60
"""How far a shown answer's `timestamp` may be from now."""

_PROBLEM = re.compile(r"(\d{3}) ([\w ]+): (.+)")
_STAMP = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
_LEFT_OUT = "..."


def assert_answered(output: Output) -> None:
    """The command went as its answer says, or just well when the guide shows none."""
    answer = output.step.answer.removeprefix("Response: ")
    if not answer:
        assert_went_well(output)
    elif answer.startswith(("{", "[")):
        assert_same_json(output, answer)
    elif problem := _PROBLEM.fullmatch(answer):
        _assert_problem(output, int(problem[1]), problem[2], problem[3])
    else:
        _assert_printed(output, answer)


def assert_went_well(output: Output) -> None:
    assert output.exit_status == 0, f"{output.step.command}\n{output.stderr}"
    assert all(200 <= status < 300 for status in output.http_statuses), (
        f"{output.step.command}\n{output.stdout}"
    )


def assert_same_json(output: Output, shown: str) -> None:
    """The same value. `...` stands for more fields or elements; a time stamp in seconds is free.

    A shown problem document is the body of an answer with its status.
    """
    expected, given = _read_shown(shown), json.loads(output.stdout)
    assert _pretty(given) == _pretty(_completed(expected, given))
    if isinstance(expected, dict) and {"title", "status", "code"} <= set(expected):
        assert output.http_statuses == (expected["status"],)
        assert output.exit_status == 0
    else:
        assert_went_well(output)


_BELOW = ("WARNING: ", "What an acknowledgement is worth: ")


def assert_same_log(shown: str, lines: Sequence[str]) -> None:
    """The same lines at the beginning, each with a time stamp.

    Below are nothing but warnings, and what an acknowledgement is worth.
    """
    expected = shown.splitlines()
    assert all(_STAMP.match(line) for line in [*expected, *lines])
    given = [_STAMP.sub("", line, count=1) for line in lines]
    assert given[: len(expected)] == [_STAMP.sub("", line, count=1) for line in expected]
    assert all(line.startswith(_BELOW) for line in given[len(expected) :])


def _assert_problem(output: Output, status: int, title: str, detail: str) -> None:
    assert output.http_statuses == (status,), f"{output.step.command}\n{output.stdout}"
    problem = json.loads(output.stdout)
    assert (problem["status"], problem["title"], problem["detail"]) == (status, title, detail)
    assert HTTPStatus(status).phrase == title


def _assert_printed(output: Output, answer: str) -> None:
    """Word for word. What a command says on standard error, it fails with."""
    if output.exit_status:
        assert (output.stdout, output.stderr.rstrip("\n")) == ("", answer)
        assert output.exit_status == 1
    else:
        assert (output.stdout.rstrip("\n"), output.stderr) == (answer, "")


def _read_shown(shown: str) -> Any:
    shown = re.sub(r",\s*\.\.\.\s*\}", f', "{_LEFT_OUT}": 0}}', shown)
    return json.loads(re.sub(r",\s*\.\.\.\s*\]", f', "{_LEFT_OUT}"]', shown))


def _completed(expected: Any, given: Any) -> Any:
    """`expected`, and where it leaves something open what is given there."""
    if isinstance(expected, dict) and isinstance(given, dict):
        rest = given if _LEFT_OUT in expected else {}
        shown = {name: value for name, value in expected.items() if name != _LEFT_OUT}
        now = time.time()
        for name, value in shown.items():
            there = given.get(name)
            if name == "timestamp" and type(value) is int and type(there) is int:
                shown[name] = there if abs(there - now) <= CLOSE_S else int(now)
            else:
                shown[name] = _completed(value, there)
        return {**rest, **shown}
    if isinstance(expected, list) and isinstance(given, list):
        shown_length = expected.index(_LEFT_OUT) if _LEFT_OUT in expected else len(expected)
        rest_of_list = given[shown_length:] if shown_length < len(expected) else []
        pairs = zip(expected[:shown_length], [*given, *[None] * shown_length], strict=False)
        return [_completed(value, there) for value, there in pairs] + rest_of_list
    return expected


def _pretty(value: Any) -> str:
    """Text, in which 1, 1.0 and true differ."""
    return json.dumps(value, indent=1, sort_keys=True)
