"""Covers tables and action profiles: lookups against a plain scan, writes in any order, sizes, const entries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soft_switch.errors import (
    ConstTableError,
    EntryExistsError,
    EntryNotFoundError,
    GroupExistsError,
    GroupNotFoundError,
    GroupTooLargeError,
    InvalidEntryError,
    MemberExistsError,
    MemberNotFoundError,
    ProfileFullError,
    ProfileInUseError,
    TableFullError,
)
from soft_switch.tables.action_profile import ActionProfile
from soft_switch.tables.matches import ActionCall, Exact, Group, Lpm, Match, Member, Range, Ternary
from soft_switch.tables.table import GROUP, NOTHING, Table
from tests.support.native import NativeTable, no_machine_code

ACTIONS = {"set": (7, (32,)), "NoAction": (0, ())}
DEFAULT = ActionCall("set", (0xFFFFFFFF,))


def make(kinds: tuple[str, ...], widths: tuple[int, ...], size: int = 10_000, **more: Any) -> Table:
    return Table("t", size, kinds, widths, ACTIONS, default=DEFAULT, **more)


def accepts(match: Match, value: int, width: int) -> bool:
    """The definition of each match kind, bit by bit."""
    if isinstance(match, Exact):
        return value == match.value
    if isinstance(match, Range):
        return match.low <= value <= match.high
    if isinstance(match, Ternary):
        return all((value ^ match.value) >> i & 1 == 0 for i in range(width) if match.mask >> i & 1)
    first = width - match.prefix_len
    return all((value ^ match.value) >> i & 1 == 0 for i in range(first, width))


def scan(entries: list[tuple[tuple[Match, ...], int, int]], values: tuple[int, ...], table: Table) -> int:
    """The result of a lookup: the first entry of the highest priority (or longest prefix) that accepts all values."""
    best: tuple[int, int] | None = None
    for match, priority, number in entries:
        if all(accepts(m, v, w) for m, v, w in zip(match, values, table.key_widths, strict=True)):
            rank = priority
            if not table.prioritised:
                rank = sum(m.prefix_len for m in match if isinstance(m, Lpm))
            if best is None or rank > best[0]:
                best = (rank, number)
    return DEFAULT.args[0] if best is None else best[1]


def matches(kind: str, width: int) -> st.SearchStrategy[Match]:
    value = st.integers(0, (1 << width) - 1)
    prefix = st.integers(0, width)
    if kind == "exact":
        return st.builds(Exact, value)
    if kind == "lpm":
        return st.builds(Lpm, value, prefix)
    if kind == "range":
        return st.tuples(value, value).map(lambda pair: Range(min(pair), max(pair)))
    masks = st.one_of(value, prefix.map(lambda n: ((1 << n) - 1) << (width - n)))
    return st.builds(Ternary, value, masks)


SHAPES = [
    (("exact",), (16,)),
    (("exact", "exact"), (2, 3)),
    (("lpm",), (6,)),
    (("lpm",), (128,)),
    (("exact", "lpm"), (1, 6)),
    (("ternary",), (4,)),
    (("ternary",), (12,)),
    (("ternary", "exact"), (10, 2)),
    (("range",), (5,)),
    (("range",), (32,)),
    (("exact",), (100,)),
    (("ternary", "lpm"), (70, 9)),
    (("range", "range", "range"), (3, 3, 10)),
    (("exact", "range", "ternary", "lpm"), (1, 4, 3, 9)),
    (("ternary", "ternary"), (12, 3)),
]


@pytest.mark.parametrize(("kinds", "widths"), SHAPES)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_lookups_equal_a_scan_while_entries_come_and_go(
    kinds: tuple[str, ...], widths: tuple[int, ...], data: st.DataObject
) -> None:
    table = make(kinds, widths)
    native = None if no_machine_code() else NativeTable(table)
    match = st.tuples(*(matches(k, w) for k, w in zip(kinds, widths, strict=True)))
    model: dict[Any, tuple[tuple[Match, ...], int, int]] = {}
    values = [st.integers(0, (1 << w) - 1) for w in widths]
    for number in range(data.draw(st.integers(1, 25))):
        if model and data.draw(st.integers(0, 4)) == 0:
            key = data.draw(st.sampled_from(sorted(model, key=repr)))
            old = model[key]
            if data.draw(st.booleans()):
                table.delete(old[0], old[1])
                del model[key]
            else:
                table.modify(old[0], old[1], ActionCall("set", (number,)))
                model[key] = (old[0], old[1], number)
        else:
            new = data.draw(match)
            priority = data.draw(st.integers(0, 3)) if table.prioritised else 0
            entry_before = table.get(new, priority)
            if entry_before is None:
                entry = table.insert(new, priority, ActionCall("set", (number,)))
                model[entry.match, entry.priority] = (entry.match, priority, number)
            else:
                with pytest.raises(EntryExistsError):
                    table.insert(new, priority, ActionCall("set", (number,)))
        probe = tuple(data.draw(value) for value in values)
        probes = [probe]
        if model:  # values at the edge of an entry are the most likely to find an error
            some = data.draw(st.sampled_from(sorted(model, key=repr)))
            probes.append(tuple(getattr(m, "high", getattr(m, "value", 0)) for m in model[some][0]))
        for values_ in probes:
            key_ = values_[0] if len(values_) == 1 else values_
            expected = scan(list(model.values()), values_, table)
            assert table.results[key_][3] == expected
            if native is not None:
                assert native.look_up(values_)[2] == expected
    assert [e.match for e in table.entries()] == [m for m, _, _ in model.values()]


def test_lookups_equal_a_scan_with_many_masks_and_many_entries() -> None:
    table = make(("lpm", "exact"), (32, 4), size=5000)
    native = None if no_machine_code() else NativeTable(table)
    entries = []
    for number in range(3000):
        match = (Lpm(number * 2654435761 & 0xFFFFFFFF, 8 + number % 25), Exact(number % 16))
        if table.get(match, 0) is None:
            entries.append((table.insert(match, 0, ActionCall("set", (number,))).match, 0, number))
    for number in range(0, 3000, 97):
        key = (number * 2654435761 & 0xFFFFFFFF, number % 16)
        assert table.results[key][3] == scan(entries, key, table)
        if native is not None:
            assert native.look_up(key)[2] == table.results[key][3]


def test_the_first_of_equal_priority_wins() -> None:
    table = make(("range",), (8,))
    table.insert((Range(0, 10),), 5, ActionCall("set", (1,)))
    table.insert((Range(5, 20),), 5, ActionCall("set", (2,)))
    table.insert((Range(8, 9),), 6, ActionCall("set", (3,)))
    assert [table.results[v][3] for v in (7, 8, 15)] == [1, 3, 2]


def test_the_memo_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soft_switch.tables.table.MEMO_LIMIT", 10)
    table = make(("lpm",), (16,))
    for value in range(100):
        assert table.results[value][1] is False
        assert len(table.results) <= 10


def test_the_default_action_is_set_and_restored() -> None:
    table = make((), ())
    assert table.results[0] == (7, False, None, 0xFFFFFFFF)
    table.set_default(ActionCall("set", (5,)))
    assert table.results[0][3] == 5
    table.set_default(None)
    assert table.default == table.initial_default == DEFAULT
    assert table.results[0][3] == DEFAULT.args[0]


def test_a_const_default_action_cannot_be_changed() -> None:
    table = make(("exact",), (8,), default_is_const=True)
    table.set_default(None)
    with pytest.raises(ConstTableError):
        table.set_default(ActionCall("NoAction", ()))


def test_the_size_bounds_the_number_of_entries() -> None:
    table = make(("exact",), (8,), size=2)
    table.insert((Exact(1),), 0, DEFAULT)
    table.insert((Exact(2),), 0, DEFAULT)
    with pytest.raises(TableFullError):
        table.insert((Exact(3),), 0, DEFAULT)
    table.delete((Exact(1),), 0)
    table.insert((Exact(3),), 0, DEFAULT)


def test_const_entries_cannot_be_written() -> None:
    table = make(("ternary",), (8,))
    table.set_const_entries([((Ternary(1, 1),), 2, DEFAULT), ((Ternary(0, 0),), 1, DEFAULT)])
    assert [e.is_const for e in table.entries()] == [True, True]
    for write in (
        lambda: table.insert((Ternary(3, 3),), 1, DEFAULT),
        lambda: table.modify((Ternary(1, 1),), 2, DEFAULT),
        lambda: table.delete((Ternary(1, 1),), 2),
    ):
        with pytest.raises(ConstTableError):
            write()


def test_bits_outside_the_mask_do_not_make_another_entry() -> None:
    table = make(("ternary", "lpm"), (8, 8))
    table.insert((Ternary(0xFF, 0x0F), Lpm(0xAB, 4)), 1, DEFAULT)
    with pytest.raises(EntryExistsError):
        table.insert((Ternary(0x0F, 0x0F), Lpm(0xA0, 4)), 1, DEFAULT)
    table.insert((Ternary(0x0F, 0x0F), Lpm(0xA0, 4)), 2, DEFAULT)


@pytest.mark.parametrize(
    ("match", "priority", "target"),
    [
        ((Exact(1),), 0, DEFAULT),
        ((Exact(256), Range(0, 1)), 0, DEFAULT),
        ((Lpm(1, 8), Range(0, 1)), 0, DEFAULT),
        ((Exact(1), Range(2, 1)), 0, DEFAULT),
        ((Exact(-1), Range(0, 1)), 0, DEFAULT),
        ((Exact(1), Range(0, 1)), -1, DEFAULT),
        ((Exact(1), Range(0, 1)), 0, ActionCall("get", ())),
        ((Exact(1), Range(0, 1)), 0, ActionCall("set", ())),
        ((Exact(1), Range(0, 1)), 0, ActionCall("set", (1 << 32,))),
        ((Exact(1), Range(0, 1)), 0, Member(1)),
    ],
)
def test_entries_that_do_not_fit_are_refused(match: tuple[Match, ...], priority: int, target: Any) -> None:
    table = make(("exact", "range"), (8, 8))
    with pytest.raises(InvalidEntryError):
        table.insert(match, priority, target)
    assert not list(table.entries())


def test_missing_entries_are_errors() -> None:
    table = make(("exact",), (8,))
    assert table.get((Exact(1),), 0) is None
    with pytest.raises(EntryNotFoundError):
        table.delete((Exact(1),), 0)
    with pytest.raises(EntryNotFoundError):
        table.modify((Exact(1),), 0, DEFAULT)


@pytest.fixture
def selected() -> tuple[Table, ActionProfile]:
    profile = ActionProfile("p", 4, with_selector=True)
    table = Table("t", 8, ("exact",), (8,), ACTIONS, profile=profile)
    for member in (1, 2, 3):
        profile.add_member(member, ActionCall("set", (10 * member,)))
    return table, profile


def test_entries_lead_to_members_and_groups(selected: tuple[Table, ActionProfile]) -> None:
    table, profile = selected
    profile.add_group(9, {2: 1, 1: 3})
    table.insert((Exact(1),), 0, Member(2))
    table.insert((Exact(2),), 0, Group(9))
    assert table.results[1][3] == 20
    assert table.results[2][0] == GROUP
    assert [choice[3] for choice in table.results[2][3]] == [10, 10, 10, 20]
    assert table.results[3][0] == ACTIONS["NoAction"][0]
    profile.modify_member(2, ActionCall("set", (99,)))
    assert table.results[1][3] == 99
    profile.modify_group(9, {})
    assert table.results[2][:2] == (NOTHING, True)
    with pytest.raises(InvalidEntryError):
        table.insert((Exact(4),), 0, DEFAULT)


def test_members_and_groups_in_use_cannot_be_deleted(selected: tuple[Table, ActionProfile]) -> None:
    table, profile = selected
    profile.add_group(9, {1: 1})
    table.insert((Exact(1),), 0, Member(2))
    table.insert((Exact(2),), 0, Group(9))
    for delete in (
        lambda: profile.delete_member(1),
        lambda: profile.delete_member(2),
        lambda: profile.delete_group(9),
    ):
        with pytest.raises(ProfileInUseError):
            delete()
    table.modify((Exact(1),), 0, Member(3))
    table.delete((Exact(2),), 0)
    profile.delete_member(2)
    profile.delete_group(9)
    profile.delete_member(1)
    assert list(profile.members) == [3]


def test_invalid_members_and_groups_are_refused(selected: tuple[Table, ActionProfile]) -> None:
    table, profile = selected
    profile.max_group_size = 5
    profile.add_group(1, {1: 2}, max_size=3)
    profile.add_member(4, DEFAULT)
    for error, call in (
        (MemberExistsError, lambda: profile.add_member(1, DEFAULT)),
        (ProfileFullError, lambda: profile.add_member(5, DEFAULT)),
        (MemberNotFoundError, lambda: profile.modify_member(7, DEFAULT)),
        (MemberNotFoundError, lambda: profile.delete_member(7)),
        (MemberNotFoundError, lambda: profile.add_group(2, {7: 1})),
        (GroupExistsError, lambda: profile.add_group(1, {})),
        (GroupNotFoundError, lambda: profile.modify_group(2, {})),
        (GroupNotFoundError, lambda: profile.delete_group(2)),
        (GroupTooLargeError, lambda: profile.modify_group(1, {1: 4})),
        (GroupTooLargeError, lambda: profile.add_group(2, {1: 6})),
        (GroupTooLargeError, lambda: profile.add_group(2, {}, max_size=6)),
        (InvalidEntryError, lambda: profile.add_group(2, {1: 0})),
        (InvalidEntryError, lambda: profile.modify_member(1, ActionCall("get", ()))),
        (MemberNotFoundError, lambda: table.insert((Exact(1),), 0, Member(8))),
        (GroupNotFoundError, lambda: table.insert((Exact(1),), 0, Group(8))),
    ):
        with pytest.raises(error):
            call()
    with pytest.raises(InvalidEntryError):
        ActionProfile("plain", 4, with_selector=False).add_group(1, {})
