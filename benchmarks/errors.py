"""What makes a benchmark worthless."""


class BenchmarkFailed(Exception):
    """An answer was wrong, a server or the load generator failed: there is no figure."""


def check(holds: bool, problem: str) -> None:
    """Raise `BenchmarkFailed` unless what must be so is so."""
    if not holds:
        raise BenchmarkFailed(problem)
