"""Parser value sets: values that the control plane adds to the constants of a ``select``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from soft_switch.tables.lookup import build_search
from soft_switch.tables.matches import Exact, Match


class ValueSet:
    """The members of one value set; the parser evaluates ``values in value_set``.

    Attributes:
        size: number of members that the program asks for; 0 if it does not say.
        widths: widths in bits of the values that the ``select`` looks at; () if no parser state uses the set.
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
        """Replace the members. Each has one match for every value, of the same kind in all members."""
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
