"""What is run in place of a guide's words that cannot be run as they stand."""

SUBSTITUTIONS = {
    "./ebus": "ebus",
    "localhost:8080": "localhost:$port",
    "listening on :8080": "listening on :$port",
    "-d '...'": '-d \'{"type":"OrderPlaced","data":{"order":"O-$number"}}\'',
    "any-valid-key": "alice-secret-key-123",
    "alice-key": "alice-secret-key-123",
    "bob-key": "bob-secret-key-456",
    "charlie-key": "charlie-secret-key-789",
    "data/tenant-name.db*": "data/charlie.db*",
    "pip install .": (
        "$python -m pip install --quiet --disable-pip-version-check --no-index --no-deps "
        "--no-build-isolation --target installed $clone"
    ),
    "make serve": "make --dry-run --no-print-directory --directory=$clone serve",
}
"""A guide's words → what takes their place.

`$port` is that of the running server, `$number` a new one each time, `$clone` this clone. The
rows but for the first three: an event, where the guide shows none; keys that are some; the
tenant to remove; an installation beside this one, from what is installed already; and what
would be done, for what makes a virtual environment.
"""
