"""The language of STF scripts: one statement per line, comments after ``#``. Pure: text to statements.

The statements are those of p4c's runner for bmv2. ``add`` and ``setdefault`` name tables, keys and actions; ``packet``
and ``expect`` carry hexadecimal data. In an ``expect``, ``*`` matches any digit, and ``$`` at the end means that the
packet must not be longer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from soft_switch.errors import SwitchError

COMMANDS = frozenset(
    {"mirroring_add", "mirroring_add_mc", "mirroring_delete", "mirroring_get"}
    | {"mc_mgrp_create", "mc_node_create", "mc_node_update", "mc_node_associate"}
    | {"counter_read", "counter_write", "register_read", "register_write", "register_reset"}
    | {"meter_get_rates", "meter_set_rates", "meter_array_set_rates"}
)
"""Commands of simple_switch_CLI that scripts use: a word and its arguments."""

_NAME = r"[\w$.\[\]]+"
_CALL = re.compile(rf"(?P<action>{_NAME})\s*\((?P<args>[^()]*)\)\s*(?:=\s*\w+)?\s*$")
_MATCH = re.compile(rf"({_NAME})\s*:\s*([^\s:]+(?:\s*/\s*\d+)?)\s*")
_CHECK = re.compile(rf"({_NAME})\s*\(\s*(\w+)\s*\)\s*(?:(packets|bytes)\s*(==|!=|<=|>=|<|>)\s*(\w+))?$")


class ScriptError(SwitchError):
    """A line is not a statement, or does not fit the program; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Call:
    """An action with arguments by name."""

    action: str
    args: dict[str, int]


@dataclass(frozen=True, slots=True)
class Add:
    """A table entry; the parts of the key stay text, since their meaning depends on the match kind."""

    table: str
    priority: int | None
    key: tuple[tuple[str, str], ...]
    call: Call


@dataclass(frozen=True, slots=True)
class SetDefault:
    """A default action."""

    table: str
    call: Call


@dataclass(frozen=True, slots=True)
class RemoveAll:
    """Removal of all entries."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that arrives at ``port``."""

    port: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Expect:
    """A packet that must have left by ``port``; without ``pattern``, any packet."""

    port: int
    pattern: str | None

    def mismatch(self, data: bytes) -> str | None:
        """Return why ``data`` is not what is expected; None if it is."""
        if self.pattern is None:
            return None
        exact = self.pattern.endswith("$")
        pattern = self.pattern.rstrip("$")
        digits = data.hex()
        if len(digits) < len(pattern) or (exact and len(digits) > len(pattern)):
            return f"{len(digits) // 2} bytes instead of {len(pattern) // 2}: {digits}, expected {pattern}"
        for position, (want, got) in enumerate(zip(pattern, digits, strict=False)):
            if want not in ("*", got):
                return f"differs at byte {position // 2}: {digits}, expected {pattern}"
        return None


@dataclass(frozen=True, slots=True)
class CheckCounter:
    """A condition on a counter; without ``relation`` it is only read."""

    name: str
    index: int
    unit: str | None = None
    relation: str | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """A command of simple_switch_CLI."""

    word: str
    args: tuple[str, ...] = field(default=())


Statement = Add | SetDefault | RemoveAll | Packet | Expect | CheckCounter | Command


def parse_number(text: str) -> int:
    """Read a number in decimal, or after 0x, 0b or 0o.

    Raises:
        ScriptError: it is not a number.
    """
    try:
        return int(text, 10) if text.isdigit() else int(text, 0)
    except ValueError:
        raise ScriptError(f"{text!r} is not a number") from None


def parse_script(text: str) -> list[tuple[int, Statement]]:
    """Return the statements with their line numbers.

    Raises:
        ScriptError: a line is not a statement; the message names the line.
    """
    result = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].strip()
        if not words:
            continue
        try:
            statement = _statement(words)
        except (ScriptError, ValueError) as error:
            raise ScriptError(f"line {number}: {error}: {words}") from error
        if statement is not None:
            result.append((number, statement))
    return result


def _statement(text: str) -> Statement | None:
    word, _, rest = text.partition(" ")
    word, rest = word.lower(), rest.strip()
    if word in ("wait", "no_packet"):
        return None  # The runner waits for every packet anyway, and any packet that is not expected is a failure.
    if word == "add":
        return _add(rest)
    if word == "setdefault":
        table, _, call = rest.partition(" ")
        return SetDefault(_unquoted(table), _call(call))
    if word == "remove":
        if rest.lower() != "all":
            raise ScriptError("only 'remove all' is supported")
        return RemoveAll()
    if word == "packet":
        port, *data = rest.split()
        return Packet(int(port), bytes.fromhex("".join(data)))
    if word == "expect":
        port, *data = rest.split()
        pattern = "".join(data).lower()
        if not re.fullmatch(r"[0-9a-f*]*\$?", pattern):
            raise ScriptError("expected data consists of hexadecimal digits and '*', with an optional '$' at the end")
        return Expect(int(port), pattern or None)
    if word == "check_counter":
        found = _CHECK.match(rest)
        if found is None:
            raise ScriptError("it must have the form: check_counter NAME(INDEX) packets == NUMBER")
        name, index, unit, relation, number = found.groups()
        return CheckCounter(name, parse_number(index), unit, relation, parse_number(number or "0"))
    if word in COMMANDS:
        return Command(word, tuple(rest.split()))
    raise ScriptError(f"unknown statement {word!r}")


def _unquoted(name: str) -> str:
    return name.strip('"')


def _call(text: str) -> Call:
    found = _CALL.match(text.replace('"', "").strip())
    if found is None:
        raise ScriptError("it needs an action of the form NAME(PARAMETER:VALUE, ...)")
    args = {}
    for argument in found["args"].split(","):
        if argument.strip():
            name, _, value = argument.partition(":")
            args[name.strip()] = parse_number(value.strip())
    return Call(found["action"], args)


def _add(text: str) -> Add:
    table, _, rest = text.replace('"', "").partition(" ")
    rest = rest.strip()
    found = re.match(r"(\d+)\s+", rest)
    priority = None
    if found:
        priority = int(found[1])
        rest = rest[found.end() :]
    key = []
    while (part := _MATCH.match(rest)) is not None:
        key.append((part[1], part[2].replace(" ", "")))
        rest = rest[part.end() :]
    return Add(table, priority, tuple(key), _call(rest))
