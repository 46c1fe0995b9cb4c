"""Idle timeouts: which entries of the tables that age have not been hit for as long as they were given.

Pure logic on a clock that is passed in: the same, in nanoseconds, that packets are processed by.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from soft_switch.tables.table import Entry, Table

SHORTEST_NS = 10_000_000
"""Timeouts below this are taken for this: a shorter one would do nothing but keep a processor busy."""
_SLACK = 1024


class IdleWatch:
    """Watches the entries of some tables.

    Nothing happens on a hit but that the entry's time is set. An entry is looked at when it would be due without any
    hit, and again when it would be due by what was found. So one that is hit all the time costs a look per timeout.
    """

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables = [table for table in tables if table.ages]
        # (when to look, number, table, entry); valid where the entry's own looked_at_ns says the same.
        self._looks: list[tuple[int, int, Table, Entry]] = []
        self._count = 0
        self._most = _SLACK

    def start(self, now_ns: int) -> None:
        """The program begins to run: all its entries count as hit now."""
        for table in self._tables:
            for entry in table.entries():
                entry.last_hit_ns = entry.notified_ns = now_ns
        self.rebuild()

    def set(self, table: Table, entry: Entry, timeout_ns: int, now_ns: int, is_new: bool) -> None:
        """An entry was written; a timeout of 0 is none. One that was there before keeps the time of its last hit."""
        entry.idle_timeout_ns = timeout_ns
        if is_new:
            entry.last_hit_ns = entry.notified_ns = now_ns
        if timeout_ns:
            self._look(table, entry, _due_ns(entry))

    def next_ns(self) -> int | None:
        """When to call :meth:`take`; None when nothing is watched."""
        return self._looks[0][0] if self._looks else None

    def take(self, now_ns: int) -> dict[str, list[Entry]]:
        """The entries that are due, by table name. Each is due again after another timeout without a hit."""
        due: dict[str, list[Entry]] = {}
        while self._looks and self._looks[0][0] <= now_ns:
            at_ns, _, table, entry = heappop(self._looks)
            if entry.looked_at_ns != at_ns:
                continue
            entry.looked_at_ns = None
            if not entry.idle_timeout_ns or table.get(entry.match, entry.priority) is not entry:
                continue
            if _due_ns(entry) <= now_ns:
                entry.notified_ns = now_ns
                due.setdefault(table.name, []).append(entry)
            self._look(table, entry, _due_ns(entry))
        return due

    def _look(self, table: Table, entry: Entry, at_ns: int) -> None:
        if entry.looked_at_ns is not None and entry.looked_at_ns <= at_ns:
            return  # It is looked at before that anyway.
        entry.looked_at_ns = at_ns
        self._count += 1
        heappush(self._looks, (at_ns, self._count, table, entry))
        if len(self._looks) > self._most:
            self.rebuild()

    def rebuild(self) -> None:
        """Begin anew with the entries that there are: those that are gone stay until they are due, if ever they are."""
        self._looks = []
        for table in self._tables:
            for entry in table.entries():
                entry.looked_at_ns = None
                if entry.idle_timeout_ns:
                    self._count += 1
                    entry.looked_at_ns = _due_ns(entry)
                    self._looks.append((entry.looked_at_ns, self._count, table, entry))
        heapify(self._looks)
        self._most = 2 * len(self._looks) + _SLACK


def _due_ns(entry: Entry) -> int:
    return max(entry.last_hit_ns, entry.notified_ns) + max(entry.idle_timeout_ns, SHORTEST_NS)
