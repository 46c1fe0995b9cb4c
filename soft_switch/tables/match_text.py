"""Matches and values as people write them: ``10.0.2.0/24``, ``aa:bb:cc:dd:ee:ff``, ``0x0a/0xff``, ``5..9``. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

from soft_switch.errors import InvalidEntryError
from soft_switch.tables.matches import Exact, Lpm, Match, Range, Ternary, prefix_mask

MatchLike: TypeAlias = Match | str | int
"""A match, or text or a number that :func:`read_match` turns into one."""

IPV4_BITS = 32
MAC_BITS = 48
IPV6_BITS = 128
_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}", re.IGNORECASE)
_ADDRESSES = {IPV4_BITS: ", 10.0.2.1", MAC_BITS: ", 02:00:00:00:00:01", IPV6_BITS: ", fd00::1"}
_FORMS = {
    "exact": "a value",
    "lpm": "VALUE/PREFIX_LENGTH",
    "ternary": "VALUE/MASK",
    "range": "LOW..HIGH",
}


def read_value(text: str | int, width: int, where: str) -> int:
    """Return the number that ``text`` means for a field of ``width`` bits.

    Numbers are decimal or start with ``0x``, ``0b`` or ``0o``. A field of 32 bits also takes an IPv4 address, one of
    48 bits a MAC address, one of 128 bits an IPv6 address.

    Raises:
        InvalidEntryError: ``text`` is none of these or does not fit; the message starts with ``where``.
    """
    value = text if isinstance(text, int) else _number(str(text).strip(), width)
    if value is None:
        forms = f"46, 0x2e{_ADDRESSES.get(width, '')}"
        raise InvalidEntryError(f"{where}: {text!r} is not a value of {width} bits; write e.g. {forms}")
    if not 0 <= value < 1 << width:
        raise InvalidEntryError(f"{where}: {text} does not fit in {width} bits (0 to {(1 << width) - 1:#x})")
    return value


def _number(text: str, width: int) -> int | None:
    if width == MAC_BITS and _MAC.fullmatch(text):
        return int(re.sub("[:-]", "", text), 16)
    try:
        if width == IPV4_BITS and "." in text:
            return int(ipaddress.IPv4Address(text))
        if width == IPV6_BITS and ":" in text:
            return int(ipaddress.IPv6Address(text))
        return int(text, 0)
    except ValueError:
        return None


def read_match(given: MatchLike, kind: str, width: int, where: str) -> Match:
    """Return the match that ``given`` means for a key field matched by ``kind``.

    ``exact`` takes a value, ``lpm`` ``VALUE/PREFIX_LENGTH``, ``ternary`` ``VALUE/MASK`` and ``range`` ``LOW..HIGH``. A
    value alone matches exactly that value in every kind. ``*`` matches everything, except in an exact field.

    Raises:
        InvalidEntryError: the text does not have the form of ``kind``; the message starts with ``where``.
    """
    if isinstance(given, Exact | Lpm | Ternary | Range):
        return given
    if not isinstance(given, str | int):
        raise InvalidEntryError(f"{where}: {given!r} is not a match; write {_FORMS[kind]}")
    text = given.strip() if isinstance(given, str) else str(given)
    if text == "*":
        return anything(kind, width, where)
    if kind == "lpm" and "/" in text:
        return _read_lpm(text, width, where)
    if kind == "ternary" and ("/" in text or "&&&" in text):
        return _read_ternary(text, width, where)
    if kind == "range" and ".." in text:
        low, _, high = text.partition("..")
        return Range(read_value(low, width, where), read_value(high, width, where))
    if kind != "lpm" and "/" in text:
        raise InvalidEntryError(f"{where} is matched by {kind}, which takes {_FORMS[kind]}, not {text!r}")
    value = read_value(text, width, where)
    if kind == "lpm":
        return Lpm(value, width)
    if kind == "ternary":
        return Ternary(value, (1 << width) - 1)
    return Range(value, value) if kind == "range" else Exact(value)


def anything(kind: str, width: int, where: str) -> Match:
    """Return the match that every value of a field satisfies.

    Raises:
        InvalidEntryError: the field is matched exactly, so that there is none.
    """
    if kind == "lpm":
        return Lpm(0, 0)
    if kind == "ternary":
        return Ternary(0, 0)
    if kind == "range":
        return Range(0, (1 << width) - 1)
    raise InvalidEntryError(f"{where} is matched exactly; give it a value")


def _read_lpm(text: str, width: int, where: str) -> Lpm:
    address, _, length_text = text.partition("/")
    value = read_value(address, width, where)
    if not length_text.strip().isdecimal() or int(length_text) > width:
        raise InvalidEntryError(f"{where}: {length_text!r} is not a prefix length of 0 to {width}; e.g. {address}/8")
    length = int(length_text)
    if value & ~prefix_mask(length, width):
        raise InvalidEntryError(
            f"{where}: {text} has bits set after its first {length}; clear them, or write a longer prefix"
        )
    return Lpm(value, length)


def _read_ternary(text: str, width: int, where: str) -> Ternary:
    value_text, mask_text = re.split(r"&&&|/", text, maxsplit=1)
    value, mask = read_value(value_text, width, where), read_value(mask_text, width, where)
    if value & ~mask:
        raise InvalidEntryError(
            f"{where}: {text} has bits set outside its mask {mask:#x}; clear them (after the slash comes a mask, "
            "not a prefix length)"
        )
    return Ternary(value, mask)
