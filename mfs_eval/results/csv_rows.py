"""A CSV file with a row per run, appended as runs end, so that what was interrupted goes on where it was."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from mfs_eval.errors import EvaluationError


class Keyed(Protocol):
    """A pydantic model with a key."""

    @property
    def key(self) -> Hashable:
        """Which run it is."""
        ...

    @classmethod
    def model_validate(cls, obj: Any) -> Any:
        """As pydantic has it."""
        ...

    def model_dump(self) -> dict[str, Any]:
        """As pydantic has it."""
        ...


R = TypeVar("R", bound=Keyed)


class CsvRows(Generic[R]):
    """The rows at ``path``, those that are there included; a last line that was cut off is dropped.

    Raises:
        EvaluationError: the file is not one of ours, or :meth:`check` refuses a row.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, kind: type[R], columns: Sequence[str]) -> None:
        self.rows: dict[Hashable, R] = {}
        self._path = path
        self._kind = kind
        self._columns = tuple(columns)
        text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        for row in self._parse(whole):
            reason = self.check(row)
            if reason is not None:
                raise self._refusal(reason)
            self.rows.setdefault(row.key, row)
        self._write(self.rows.values())

    def check(self, row: R) -> str | None:  # noqa: ARG002
        """Why ``row`` does not belong to these runs; None if it does."""
        return None

    def append(self, row: R) -> None:
        """Add one run, at once."""
        self.rows[row.key] = row
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._lines([row]))

    def sort(self) -> None:
        """Write all rows anew by key, so that the file does not tell in which order runs ended."""
        self._write(sorted(self.rows.values(), key=lambda row: row.key))  # type: ignore[arg-type, return-value]

    def _parse(self, text: str) -> list[R]:
        if not text:
            return []
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if tuple(reader.fieldnames or ()) != self._columns:
            raise self._refusal("its columns are others")
        try:
            return [self._kind.model_validate(values) for values in reader]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise self._refusal(f"line {reader.line_num}: {where}: {first['msg']}") from None

    def _refusal(self, reason: str) -> EvaluationError:
        return EvaluationError(
            f"cannot go on from {self._path}: {reason}; remove it or choose another folder with --out"
        )

    def _write(self, rows: Iterable[R]) -> None:
        new = self._path.with_name(self._path.name + ".new")
        header = ",".join(self._columns) + "\n"
        new.write_text(header + self._lines(rows), "utf-8", newline="")
        # At no time is there a file with fewer rows.
        os.replace(new, self._path)

    def _lines(self, rows: Iterable[R]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(row.model_dump() for row in rows)
        return text.getvalue()
