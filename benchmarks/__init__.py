"""The benchmarks of ebus: seeded workloads, one module a case, one report.

    python -m benchmarks run --json FILE
    python -m benchmarks report FILE

What is compared is measured in turns, in one run, beside three floors: `bare`, the ASGI server
with nothing behind it, `rows`, SQLite with a row for each event, and `writes`, a loop that only
writes to sockets.
"""
