"""What the log looks like: lines for people, or JSON for machines. It goes to standard error."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Literal

import msgspec

from ebus.http.request_id import request_now

LogFormat = Literal["text", "json"]


def set_up_logs(log_format: LogFormat) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It reports every broken answer with a trace; `ebus.http` has said it in a line already.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


class _TextFormatter(logging.Formatter):
    """`2025/10/05 13:41:38 Server listening on :8080`, as the original server's log."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y/%m/%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno < logging.WARNING:
            return line
        stamp = self.formatTime(record, self.datefmt)
        return f"{stamp} {record.levelname}:{line.removeprefix(stamp)}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        request = request_now()
        if request is None:
            return super().formatMessage(record)
        tenant = f", tenant {request.tenant}" if request.tenant else ""
        return f"{super().formatMessage(record)} (request {request.id}{tenant})"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line. What belongs to a request says so, in `request_id` and `tenant`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = request_now()
        if request is not None:
            entry["request_id"] = request.id
            if request.tenant is not None:
                entry["tenant"] = str(request.tenant)
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()
