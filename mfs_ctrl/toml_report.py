"""Validates tables of a TOML file by pydantic models and reports all mistakes at once, each with its place."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mfs_ctrl.errors import ConfigError
from mfs_ctrl.toml_lines import LineIndex

T = TypeVar("T")
Table = TypeVar("Table", bound=BaseModel)
Location = tuple[str | int, ...]
"""Keys from the top of the document; an element of an array is an index from 0."""


def read(path: Path, parse: Callable[[str], T]) -> T:
    """Return what ``parse`` makes of the text of the file at ``path``.

    Raises:
        ConfigError: the file cannot be read, or ``parse`` raised one; the message begins with ``path``.
    """
    try:
        return parse(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def document(text: str) -> dict[str, Any]:
    """Return the tables of ``text``.

    Raises:
        ConfigError: ``text`` is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}") from None


class Report:
    """The mistakes in ``text``, a TOML document."""

    def __init__(self, text: str) -> None:
        self._lines = LineIndex(text)
        self._mistakes: list[tuple[int, str]] = []

    def add(self, location: Location, message: str) -> None:
        """Record a mistake; ``message`` is a predicate of the key or table at ``location``."""
        number = self._lines.line(location)
        line = "" if number is None else f"line {number}: "
        self._mistakes.append((number or 0, f"{line}{place(location)}: {message}"))

    def validated(self, location: Location, value: object, model: type[Table]) -> Table | None:
        """Validate ``value`` as ``model``; return None if there are mistakes, which are recorded."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors():
                path = tuple(part for part in detail["loc"] if part != "[key]")
                self.add((*location, *path), _message(detail, model))
            return None

    def array(self, name: str, items: object, model: type[Table]) -> dict[int, Table]:
        """Validate an array of tables; return the valid elements by index. Mistakes are recorded."""
        if not isinstance(items, list):
            self.add((name,), f"must be an array of tables: write [[{name}]]")
            return {}
        validated = {number: self.validated((name, number), item, model) for number, item in enumerate(items)}
        return {number: table for number, table in validated.items() if table is not None}

    def unique(self, key: str, values: Iterable[tuple[Location, Any]], text: Callable[[Any], str], rule: str) -> None:
        """Record a mistake for each value, of ``key`` in a table, that another table has before it."""
        first: dict[Hashable, Location] = {}
        for location, value in values:
            other = first.setdefault(value, location)
            if other != location:
                self.add((*location, key), f"{text(value)} is also that of {place(other)}; {rule}")

    def raise_mistakes(self) -> None:
        """Do nothing if there are no mistakes.

        Raises:
            ConfigError: there are; the message has a line for each, in the order of the file.
        """
        messages = [message for _, message in sorted(self._mistakes, key=lambda mistake: mistake[0])]
        if len(messages) > 1:
            raise ConfigError("\n  ".join([f"{len(messages)} mistakes", *messages]))
        if messages:
            raise ConfigError(messages[0])


def place(location: Location) -> str:
    """Describe a place: ``[[host]] 2, mac`` (counted from 1) or ``[parameters], untrusted_ports[1]``."""
    if not location:
        return "the file"
    name, *path = location
    table = f"[{name}]"
    if path and isinstance(path[0], int):
        table = f"[[{name}]] {path[0] + 1}"
        del path[0]
    return ", ".join([table, _key(path)] if path else [table])


def _key(path: Sequence[str | int]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    value = reprlib.repr(detail["input"])
    match detail["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return f"unknown key; the keys are {', '.join(sorted(model.model_fields))}"
        case "value_error":
            reason = str(detail["ctx"]["error"])
            return f"{reason}, not {value}" if reason.startswith("must ") else f"{value} {reason}"
        case "model_type":
            return "must be a table"
    message = detail["msg"]
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    # Messages about lengths already say what was found.
    return message if detail["type"] in ("too_short", "too_long") else f"{message}, not {value}"


_WORDS = {
    "Input should be": "must be",
    "List should have": "must have",
    " after validation": "",
    "a valid list": "an array",
    "a valid dictionary": "a table",
    "a valid integer": "a whole number",
    "a valid number": "a number",
}
