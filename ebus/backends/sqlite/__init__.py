"""The engine that keeps a SQLite file for each tenant: `sqlite:DIRECTORY`.

`blocks` says how events lie in a file, `schema` what else does and how files are told apart,
`segments` and `index` what is known of events beside that, `search` how they are found by it,
`takeover` how a file of the original server becomes one of ours, `copying` how
copies are made and put back, `examine` how a file is looked through, `connection` how files are
opened, `store` and `engine` are the protocol on top of that.
"""

from ebus.backends.sqlite.engine import SqliteEngine, open_sqlite
from ebus.backends.sqlite.store import SqliteStore

__all__ = ["SqliteEngine", "SqliteStore", "open_sqlite"]
