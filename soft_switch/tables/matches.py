"""Matches and targets of table entries, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.errors import InvalidEntryError


@dataclass(frozen=True, slots=True)
class Exact:
    """The key field equals ``value``."""

    value: int


@dataclass(frozen=True, slots=True)
class Lpm:
    """The first ``prefix_len`` bits of the key field equal those of ``value``."""

    value: int
    prefix_len: int


@dataclass(frozen=True, slots=True)
class Ternary:
    """The key field equals ``value`` in the bits that are set in ``mask``."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Range:
    """``low`` <= key field <= ``high``."""

    low: int
    high: int


Match = Exact | Lpm | Ternary | Range


@dataclass(frozen=True, slots=True)
class ActionCall:
    """An action with its arguments."""

    action: str
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an action profile."""

    member_id: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group of an action selector."""

    group_id: int


Target = ActionCall | Member | Group

_KINDS: dict[str, type[Exact] | type[Lpm] | type[Ternary] | type[Range]] = {
    "exact": Exact,
    "lpm": Lpm,
    "ternary": Ternary,
    "range": Range,
}


def canonical(match: Match, kind: str, width: int, where: str) -> Match:
    """Return ``match`` with the bits cleared that do not matter.

    Raises:
        InvalidEntryError: it does not fit the key field; the message starts with ``where``.
    """
    if not isinstance(match, _KINDS[kind]):
        raise InvalidEntryError(f"{where} is matched by {kind}, not by {type(match).__name__.lower()}")
    top = (1 << width) - 1
    if isinstance(match, Lpm):
        if not 0 <= match.prefix_len <= width:
            raise InvalidEntryError(f"{where}: prefix length {match.prefix_len} is not in 0..{width}")
        numbers: tuple[int, ...] = (match.value,)
        match = Lpm(match.value & prefix_mask(match.prefix_len, width), match.prefix_len)
    elif isinstance(match, Ternary):
        numbers = (match.value, match.mask)
        match = Ternary(match.value & match.mask, match.mask)
    elif isinstance(match, Range):
        numbers = (match.low, match.high)
        if match.low > match.high:
            raise InvalidEntryError(f"{where}: the range {match.low}..{match.high} is empty")
    else:
        numbers = (match.value,)
    if not all(0 <= number <= top for number in numbers):
        raise InvalidEntryError(f"{where}: {match} does not fit in {width} bits")
    return match


def prefix_mask(prefix_len: int, width: int) -> int:
    """Return the mask of the first ``prefix_len`` of ``width`` bits."""
    return ((1 << prefix_len) - 1) << (width - prefix_len)


def mask_of(match: Match, width: int) -> tuple[int, int] | None:
    """Return (value, mask) equivalent to ``match``; None for a range that no single mask expresses."""
    if isinstance(match, Exact):
        return match.value, (1 << width) - 1
    if isinstance(match, Lpm):
        return match.value, prefix_mask(match.prefix_len, width)
    if isinstance(match, Ternary):
        return match.value, match.mask
    if match.low == 0 and match.high == (1 << width) - 1:
        return 0, 0
    return None


def interval_of(match: Match, width: int) -> tuple[int, int] | None:
    """Return (low, high) equivalent to ``match``; None for a mask that is not a prefix."""
    if isinstance(match, Range):
        return match.low, match.high
    pair = mask_of(match, width)
    if pair is None:  # pragma: no cover - only ranges have no mask
        return None
    value, mask = pair
    wild = ((1 << width) - 1) ^ mask
    if wild & (wild + 1):
        return None
    return value, value | wild
