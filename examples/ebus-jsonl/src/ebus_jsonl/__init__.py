"""An engine for ebus that keeps each tenant in one append-only file of JSON lines."""

from ebus_jsonl.engine import JsonlEngine, open_jsonl
from ebus_jsonl.store import JsonlStore

__all__ = ["JsonlEngine", "JsonlStore", "open_jsonl"]
