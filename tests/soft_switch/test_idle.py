"""Idle timeouts without a network: when entries are due, against a model that checks every entry every time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from soft_switch.tables.idle import SHORTEST_NS, IdleWatch
from soft_switch.tables.matches import ActionCall, Exact
from soft_switch.tables.table import Table

MS = 1_000_000
CALL = ActionCall("go", ())


def ageing_table() -> Table:
    return Table("t", 64, ("exact",), (8,), {"go": (0, ())}, ages=True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("insert", "modify", "delete", "hit", "wait", "rebuild")),
        st.integers(0, 3),
        st.sampled_from((0, SHORTEST_NS, 25 * MS, 60 * MS, 10**18)),
    ),
    max_size=40,
)


@given(STEPS)
def test_entries_are_due_after_their_timeout_without_a_hit(steps: list[tuple[str, int, int]]) -> None:
    table = ageing_table()
    watch = IdleWatch([table])
    now = 0
    model: dict[int, tuple[int, int]] = {}  # key -> (timeout, time of the last hit or notice)
    for what, key, timeout in steps:
        match = (Exact(key),)
        if what == "insert" and key not in model:
            watch.set(table, table.insert(match, 0, CALL), timeout, now, is_new=True)
            model[key] = (timeout, now)
        elif what == "modify" and key in model:
            watch.set(table, table.modify(match, 0, CALL), timeout, now, is_new=False)
            model[key] = (timeout, model[key][1])
        elif what == "delete" and key in model:
            table.delete(match, 0)
            del model[key]
        elif what == "hit" and key in model:
            entry = table.get(match, 0)
            assert entry is not None
            entry.last_hit_ns = now
            model[key] = (model[key][0], now)
        elif what == "rebuild":
            watch.rebuild()
        else:
            now += 20 * MS
        due = watch.take(now)
        expected = {k for k, (ttl, since) in model.items() if ttl and now - since >= ttl}
        assert {part.value for entry in due.get("t", []) for part in entry.match if isinstance(part, Exact)} == expected
        for k in expected:
            model[k] = (model[k][0], now)
        left = [since + ttl for ttl, since in model.values() if ttl]
        # It may ask for a check too early, but never too late.
        next_ns = watch.next_ns()
        assert not left or (next_ns is not None and next_ns <= min(left))


def test_removed_entries_are_forgotten() -> None:
    table = ageing_table()
    watch = IdleWatch([table])
    for number in range(10_000):
        watch.set(table, table.insert((Exact(1),), 0, CALL), 10**18 - number, number, is_new=True)
        table.delete((Exact(1),), 0)
    assert len(watch._looks) < 5_000


def test_idle_times_start_when_the_program_does() -> None:
    table = ageing_table()
    watch = IdleWatch([table])
    entry = table.insert((Exact(1),), 0, CALL)
    watch.set(table, entry, 50 * MS, 0, is_new=True)
    watch.start(1000 * MS)
    assert watch.take(1049 * MS) == {}
    assert watch.take(1050 * MS) == {"t": [entry]}
