"""Idle timeouts: which entries have not been hit for longer than their timeout.

Pure logic on a clock that is passed in, in nanoseconds: the clock of the packets.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from soft_switch.tables.entry import Entry
from soft_switch.tables.table import Table

SHORTEST_NS = 10_000_000
"""The shortest timeout; shorter ones, which would only keep a processor busy, are raised to this."""
_SLACK = 1024


class IdleWatch:
    """Watch over the entries of some tables.

    A hit only sets the entry's time. An entry is checked when it would be due without a hit, and again when it would be
    due by its latest hit. So an entry that is hit all the time costs one check per timeout.
    """

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables = [table for table in tables if table.ages]
        # (time of the check, number, table, entry); valid only if the entry's looked_at_ns is the same time.
        self._looks: list[tuple[int, int, Table, Entry]] = []
        self._count = 0
        self._most = _SLACK

    def start(self, now_ns: int) -> None:
        """Start when the program does: all its entries count as hit now."""
        for table in self._tables:
            for entry in table.entries():
                entry.last_hit_ns = entry.notified_ns = now_ns
        self.rebuild()

    def set(self, table: Table, entry: Entry, timeout_ns: int, now_ns: int, is_new: bool) -> None:
        """Set the timeout of an entry that was written (0: none); an existing entry keeps the time of its last hit."""
        entry.idle_timeout_ns = timeout_ns
        if is_new:
            entry.last_hit_ns = entry.notified_ns = now_ns
        if timeout_ns:
            self._look(table, entry, _due_ns(entry))

    def next_ns(self) -> int | None:
        """Return when to call :meth:`take`; None if nothing is watched."""
        return self._looks[0][0] if self._looks else None

    def take(self, now_ns: int) -> dict[str, list[Entry]]:
        """Return the entries that are due, by table name. Each is due again after another timeout without a hit."""
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
            return  # It is checked before that anyway.
        entry.looked_at_ns = at_ns
        self._count += 1
        heappush(self._looks, (at_ns, self._count, table, entry))
        if len(self._looks) > self._most:
            self.rebuild()

    def rebuild(self) -> None:
        """Start over with the entries that exist; removed entries otherwise stay in the heap until they are due."""
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
