"""Parser value sets: what the control plane puts beside the constants of a ``select``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from soft_switch.tables.lookup import build_search
from soft_switch.tables.matches import Exact, Match


class ValueSet:
    """The members of one value set; ``values in value_set`` is what the parser asks.

    ``widths`` are those of the values that its select looks at, in bits; () where no state of the parser uses the set.
    ``size`` is how many members the program asks for; 0 where it does not say.
    """

    def __init__(self, name: str, size: int = 0, widths: tuple[int, ...] = ()) -> None:
        self.name = name
        self.size = size
        self.widths = widths
        self.members: tuple[tuple[Match, ...], ...] = ()
        self._find: Callable[[Any], bool] = self._nothing

    def __contains__(self, values: tuple[int, ...]) -> bool:
        return self._find(values)

    def set(self, members: Sequence[tuple[Match, ...]]) -> None:
        """Other members, each with one match for every value; all of one kind for the same value."""
        self.members = tuple(members)
        if not members:
            self._find = self._nothing
        elif all(isinstance(part, Exact) for member in members for part in member):
            exact = {tuple(part.value for part in member if isinstance(part, Exact)) for member in members}
            self._find = exact.__contains__
        else:
            search = build_search(members, [True] * len(members), False, self.widths)
            single = len(self.widths) == 1
            self._find = lambda values: search(values[0] if single else values)

    def _nothing(self, _values: tuple[int, ...]) -> bool:
        return False
