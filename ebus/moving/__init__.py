"""Moving a log, with its positions: to a file, from a file, and from one engine to another.

    from ebus.moving import copy_log

    with open_engine("sqlite:data") as here, open_engine("http://KEY@host:8080") as there:
        moved = copy_log(here.open("alice"), there.open("alice"))
        print(moved.appended, moved.digest)

All three go on where an earlier run was cut off, in flat memory. `ebus export`, `ebus import` and
`ebus copy` are thin on them. See docs/moving.md.
"""

from ebus.moving.copying import copy_log, export_log, import_log
from ebus.moving.errors import (
    BrokenFile,
    BrokenLine,
    CannotKeep,
    MoveRefused,
    TargetChanged,
    TargetDiffers,
)
from ebus.moving.files import FileOutput, Input, Output, StreamOutput
from ebus.moving.moved import Moved
from ebus.moving.rounds import Copying

__all__ = [
    "BrokenFile",
    "BrokenLine",
    "CannotKeep",
    "Copying",
    "FileOutput",
    "Input",
    "MoveRefused",
    "Moved",
    "Output",
    "StreamOutput",
    "TargetChanged",
    "TargetDiffers",
    "copy_log",
    "export_log",
    "import_log",
]
