"""What a block starts, waits for, and ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from tests.nats.monitoring import TIMEOUT_S


class Running(ABC):
    """A server, or several as one."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def restart(self) -> None:
        """Stop what runs of it, start it, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
