"""Why a log was not moved. What was moved before stays, and a further run goes on behind it."""

from __future__ import annotations

from ebus.core.errors import EbusError


class MoveRefused(EbusError):
    """The root of what only moving a log meets."""

    code = "move_refused"


class BrokenLine(MoveRefused):
    """One line of a file cannot be stored. `line` counts from 1; nothing of its batch is stored."""

    code = "broken_line"

    def __init__(self, problem: str, *, line: int) -> None:
        self.problem = problem
        self.line = line
        super().__init__(f"line {line}: {problem}")


class BrokenFile(MoveRefused):
    """The file as a whole cannot be read to its end, or is not what it should be."""

    code = "broken_file"


class TargetDiffers(MoveRefused):
    """What the target holds is not what is to be moved there, or does not lead up to it."""

    code = "target_differs"


class TargetChanged(MoveRefused):
    """Somebody else appends to the target meanwhile: positions could not be kept."""

    code = "target_changed"


class CannotKeep(MoveRefused):
    """The target has no way to hold this as it is."""

    code = "cannot_keep"
