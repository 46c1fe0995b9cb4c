"""Value sets of every match kind, against a scan of the members."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from soft_switch.tables.matches import Exact, Lpm, Match, Range, Ternary, interval_of, mask_of
from soft_switch.tables.value_sets import ValueSet

WIDTHS = (4, 8)


def matches(width: int) -> st.SearchStrategy[st.SearchStrategy[Match]]:
    """Each field has one kind, and every member has a match of that kind for it."""
    numbers = st.integers(0, (1 << width) - 1)
    return st.sampled_from(
        (
            numbers.map(Exact),
            st.builds(lambda value, mask: Ternary(value & mask, mask), numbers, numbers),
            st.integers(0, width).map(lambda length: Lpm(0, length)),
            st.builds(lambda a, b: Range(min(a, b), max(a, b)), numbers, numbers),
        )
    )


MEMBERS = st.tuples(*map(matches, WIDTHS)).flatmap(lambda kinds: st.lists(st.tuples(*kinds), max_size=5))


def accepts(match: Match, width: int, value: int) -> bool:
    if isinstance(match, Range):
        low, high = interval_of(match, width) or (0, 0)
        return low <= value <= high
    wanted, mask = mask_of(match, width) or (0, 0)
    return value & mask == wanted


@given(
    MEMBERS,
    st.lists(st.tuples(*(st.integers(0, (1 << width) - 1) for width in WIDTHS)), min_size=1),
)
def test_values_are_in_the_set_if_a_member_accepts_them_all(
    members: list[tuple[Match, ...]], values: list[tuple[int, ...]]
) -> None:
    value_set = ValueSet("v", widths=WIDTHS)
    value_set.set(members)
    for each in values:
        expected = any(all(map(accepts, member, WIDTHS, each)) for member in members)
        assert (each in value_set) is expected


def test_a_set_of_one_value_can_be_emptied() -> None:
    value_set = ValueSet("v", widths=(8,))
    assert (5,) not in value_set
    value_set.set([(Exact(5),), (Ternary(0x80, 0x80),)])
    assert [number for number in (4, 5, 0x7F, 0x80, 0xFF) if (number,) in value_set] == [5, 0x80, 0xFF]
    value_set.set([])
    assert (5,) not in value_set
