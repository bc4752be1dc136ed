"""Files of events, plain or zstd: no name promises more than the file holds."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from ebus.core.limits import MIB
from ebus.moving.errors import BrokenFile, BrokenLine, MoveRefused
from ebus.moving.lines import Batch, Gap, Saved
from ebus.moving.reading import PAGE_BYTES, FileReading, Readable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_SUFFIXES = (".zst", ".zstd")
PARTIAL = ".partial"
"""What the name of a file ends in as long as it is not whole."""

FRAME_BYTES = 8 * MIB
"""Of lines in one zstd frame. An export that was cut off goes on behind the last whole one."""

LEVEL = 3
_MAGIC = b"\x28\xb5\x2f\xfd"
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.checksum_flag: 1,
}


def is_zstd_name(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).lower().endswith(ZSTD_SUFFIXES)


class Input:
    """A file that is read to its end; whether it is zstd it says itself.

    `read_bytes` is called with the number of bytes that were taken of the file. Reading raises
    `BrokenFile` where zstd is damaged or has no end.
    """

    def __init__(
        self, file: BinaryIO, *, name: str = "", read_bytes: Callable[[int], object] | None = None
    ) -> None:
        self._raw = _Peeked(file, read_bytes)
        is_zstd = self._raw.first == _MAGIC
        if is_zstd_name(name) and not is_zstd and self._raw.first:
            raise BrokenFile("it is not zstd, though its name says so")
        self._file: Readable = zstd.ZstdFile(self._raw) if is_zstd else self._raw

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except EOFError:
            raise BrokenFile(
                "it is cut off: its zstd has no end; what could be read before that was stored"
            ) from None
        except zstd.ZstdError as error:
            raise BrokenFile(f"its zstd is damaged: {error}") from None


class _Peeked:
    """A file of which the first bytes have been looked at."""

    def __init__(self, file: BinaryIO, read_bytes: Callable[[int], object] | None) -> None:
        self._source = file
        self._read_bytes = read_bytes
        self.first = file.read(len(_MAGIC))
        self._before = self.first

    def close(self) -> None:
        """Whoever has opened it closes it."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise OSError("there is no going back in it")

    def read(self, size: int = -1, /) -> bytes:
        before, self._before = self._before, b""
        found = before + self._source.read(size if size < 0 else max(0, size - len(before)))
        if self._read_bytes is not None:
            self._read_bytes(len(found))
        return found


class Output(Protocol):
    """Where an export goes."""

    def known(self) -> Iterator[Batch | Gap]:
        """What stands there already of an export that was cut off, in order. Changes nothing."""
        ...

    def begin(self) -> None:
        """Go on behind what `known` has told; whatever follows there is cut off."""
        ...

    def write(self, text: bytes) -> None:
        """Write whole lines."""
        ...

    def finish(self) -> None:
        """Everything is written."""
        ...


class StreamOutput:
    """A pipe, or whatever is open already. There is no going on there."""

    def __init__(self, file: BinaryIO, *, is_zstd: bool = False) -> None:
        self._file = file
        self._frames = _Frames() if is_zstd else None

    def known(self) -> Iterator[Batch | Gap]:
        return iter(())

    def begin(self) -> None:
        pass

    def write(self, text: bytes) -> None:
        self._file.write(text if self._frames is None else self._frames.compress(text))

    def finish(self) -> None:
        if self._frames is not None:
            self._file.write(self._frames.end())
        self._file.flush()


class FileOutput:
    """A file that gets its name once it is whole and on the disk; until then it is `….partial`.

    Only its owner can read it. Raises `MoveRefused` when it is there already, or somebody else is
    writing it, and `OSError`; then the partial file stays, for a further run to go on with.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_zstd: bool | None = None) -> None:
        self._path = Path(path)
        self.partial = Path(f"{path}{PARTIAL}")
        self._is_zstd = is_zstd_name(path) if is_zstd is None else is_zstd
        self._frames = _Frames() if self._is_zstd else None
        self._refuse_to_replace()
        self._fd = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise MoveRefused(f"{self.partial} is being written by another export") from None
        self._whole = 0
        """So many bytes of the file hold whole lines."""

    def _refuse_to_replace(self) -> None:
        if self._path.exists():
            raise MoveRefused(f"{self._path} is there already: choose another name, or remove it")

    def known(self) -> Iterator[Batch | Gap]:
        self._whole = 0
        reading = FileReading(keeps_metadata=True)
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for text, end in _whole_frames(file) if self._is_zstd else _whole_lines(file):
                try:
                    pieces = reading.take(text)
                except BrokenLine:
                    return
                known = [piece for piece in pieces if not isinstance(piece, Saved)]
                if len(known) < len(pieces):  # checkpoints are written anew, behind all events
                    return
                self._whole = end
                yield from known

    def begin(self) -> None:
        os.ftruncate(self._fd, self._whole)
        os.lseek(self._fd, self._whole, os.SEEK_SET)

    def write(self, text: bytes) -> None:
        self._write(text if self._frames is None else self._frames.compress(text))

    def _write(self, text: bytes) -> None:
        left = memoryview(text)
        while left:
            left = left[os.write(self._fd, left) :]

    def finish(self) -> None:
        if self._frames is not None:
            self._write(self._frames.end())
        os.fsync(self._fd)
        self._refuse_to_replace()
        self.partial.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Let go of the file. One that holds nothing yet is removed, if it is not finished."""
        if self._fd < 0:
            return
        try:
            if os.fstat(self._fd).st_size == 0 and self.partial.exists():
                self.partial.unlink()
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Frames:
    """Compresses lines into frames that each hold whole ones."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(options=_OPTIONS)
        self._size = 0
        self._is_empty = True

    def compress(self, text: bytes) -> bytes:
        """Of whole lines."""
        self._is_empty = False
        self._size += len(text)
        if self._size < FRAME_BYTES:
            return self._compressor.compress(text)
        self._size = 0
        return self._compressor.compress(text, self._compressor.FLUSH_FRAME)

    def end(self) -> bytes:
        if not self._size and not self._is_empty:
            return b""
        return self._compressor.flush()


def _whole_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Whole lines, and where in the file they end."""
    end = 0
    rest = b""
    while block := file.read(PAGE_BYTES):
        whole, found, begun = block.rpartition(b"\n")
        if not found:
            rest += block
            continue
        text = rest + whole + b"\n"
        end += len(text)
        yield text, end
        rest = begun


def _whole_frames(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The lines of whole frames, and where in the file each frame ends."""
    end = 0
    taken = b""
    while True:
        decompressor = zstd.ZstdDecompressor()
        text: list[bytes] = []
        size = 0
        while not decompressor.eof:
            block = taken or file.read(PAGE_BYTES)
            taken = b""
            if not block:
                return
            size += len(block)
            try:
                text.append(decompressor.decompress(block))
            except zstd.ZstdError:
                return
        taken = decompressor.unused_data
        end += size - len(taken)
        yield b"".join(text), end
