"""Which number a tenant has in what the workers of a server share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SPARE_SLOTS = 16_384
"""For tenants that come while the server runs, beside as many again as there are at start."""


class Slots:
    """Tenants' numbers, from 0. A tenant keeps its number for as long as the server runs.

    Also while it is not served: what was counted of it, such as a rate, it finds again. No number
    is given twice, so that nobody finds what was counted of a tenant that is deleted. Only one
    process gives out numbers; the others `learn` them together with the config that needs them,
    so that no lock is needed and none can have a number that another process knows otherwise.
    """

    def __init__(self, names: Iterable[str], *, spare: int = SPARE_SLOTS) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._given = len(self._numbers)
        self.capacity = 2 * len(self._numbers) + spare
        """How many numbers there are. What the workers share is made once, and never grows."""

    def refusal(self, names: Iterable[str]) -> str | None:
        """Why there are not enough numbers left for all of these; None when there are."""
        new = sum(name not in self._numbers for name in names)
        left = self.capacity - self._given
        if new <= left:
            return None
        return (
            f"{new} more tenants are too many: this server has had {self._given} since its "
            f"start, and has room for {self.capacity}; restart it"
        )

    def take(self, names: Iterable[str]) -> None:
        """Give a number to each that has none. There must be enough, see `refusal`."""
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = self._given
                self._given += 1
        assert self._given <= self.capacity

    def retire(self, names: Iterable[str]) -> None:
        """Who has one of these names from now on is somebody else, and has another number."""
        for name in names:
            self._numbers.pop(name, None)

    def learn(self, numbers: Mapping[str, int]) -> None:
        """Take over the numbers that another process has given out."""
        self._numbers.update(numbers)
        self._given = max(self._given, 1 + max(numbers.values(), default=-1))

    def knows(self, name: str) -> bool:
        return name in self._numbers

    def of(self, name: str) -> int:
        return self._numbers[name]
