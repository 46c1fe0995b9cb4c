"""The row store: a CSV file with one typed row per run, appended as runs end, so that a rerun resumes.

Every row records its provenance. A store refuses to extend a file whose rows have another provenance, because tables
would then average over different programs or traces.
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, ValidationError

from mfs_eval.errors import EvaluationError
from mfs_eval.results.output import write_atomically
from mfs_eval.results.schema import UNKNOWN, Provenance

PROVENANCE = tuple(Provenance.model_fields)
"""Columns that say where a row comes from. Files written before version 0.2 lack them."""
_WAY_OUT = "remove the file or choose another folder with --out"


class StoredRow(Provenance):
    """A row of a store. Subclasses add the fields of one run, and name those that identify it.

    Attributes:
        LEADING: the first columns of the file, in order; the other fields follow in the order of their definition.
        KEY: the fields that identify a run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    LEADING: ClassVar[tuple[str, ...]] = ()
    KEY: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the run."""
        return tuple(getattr(self, name) for name in self.KEY)

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the columns of the file, provenance last."""
        last = (*cls.LEADING, *PROVENANCE)
        return (*cls.LEADING, *(name for name in cls.model_fields if name not in last), *PROVENANCE)


R = TypeVar("R", bound=StoredRow)


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """Read the rows at ``path``. A last line that was cut off is ignored; missing columns have their defaults.

    Raises:
        EvaluationError: the file holds something else; the message names the line and the column.
        OSError: the file cannot be read.
    """
    text = path.read_bytes().decode("utf-8", "replace")
    complete = text[: text.rfind("\n") + 1]
    if not complete:
        return []
    reader = csv.DictReader(io.StringIO(complete, newline=""))
    found = tuple(reader.fieldnames or ())
    # Earlier versions had fewer columns.
    known = tuple(name for name in kind.columns() if name in found or kind.model_fields[name].is_required())
    if found != known:
        raise EvaluationError(f"{path}: its columns differ from those of this version; {_WAY_OUT}")
    try:
        return [kind.model_validate(values) for values in reader]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvaluationError(f"{path}: line {reader.line_num}: {where}: {first['msg']}; {_WAY_OUT}") from None


class RowStore(Generic[R]):
    """The rows at ``path``, open for more of the same provenance.

    Args:
        path: the file; it is created if it does not exist.
        kind: type of its rows.
        provenance: that of the runs to come.
        mismatch: why an existing row does not belong to the runs to come; None if it does.
        read_only: leave the file as it is.

    Attributes:
        rows: all rows by key.

    Raises:
        EvaluationError: the file holds something else, or rows that the runs to come must not be mixed with.
        OSError: the file cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        kind: type[R],
        provenance: Provenance,
        mismatch: Callable[[R], str | None] = lambda _: None,
        read_only: bool = False,
    ) -> None:
        self.rows: dict[tuple[Any, ...], R] = {}
        self._path = path
        self._kind = kind
        self._provenance = provenance
        for row in read_rows(path, kind) if path.exists() else ():
            if reason := _foreign(row, provenance) or mismatch(row):
                raise EvaluationError(f"{path}: {reason}; {_WAY_OUT}")
            self.rows.setdefault(row.key, row)
        if not read_only:
            # Removes a line that was cut off, which the next row would be appended to.
            self._write(self.rows.values())

    def append(self, row: R) -> None:
        """Add one run. The line is written at once, in one piece."""
        stamped = row.model_copy(update=self._provenance.model_dump(include=set(PROVENANCE)))
        self.rows[stamped.key] = stamped
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            line = self._lines([stamped]).encode()
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        finally:
            os.close(file)

    def sort(self) -> None:
        """Rewrite the file in the order of keys, so that it does not depend on the order in which runs ended."""
        # Another process may have added rows of the same kind in the meantime.
        everything = self.rows | {row.key: row for row in read_rows(self._path, self._kind)}
        self.rows = dict(sorted(everything.items()))
        self._write(self.rows.values())

    def _write(self, rows: Iterable[R]) -> None:
        write_atomically(self._path, ",".join(self._kind.columns()) + "\n" + self._lines(rows))

    def _lines(self, rows: Iterable[R]) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._kind.columns(), lineterminator="\n")
        writer.writerows(row.model_dump() for row in rows)
        return text.getvalue()


def _foreign(row: Provenance, wanted: Provenance) -> str | None:
    """Return why ``row`` must not be mixed with rows of the provenance ``wanted``."""
    if UNKNOWN in (row.trace_digest, row.program_digest, row.version):
        return "its rows do not say which trace and version they come from, so no runs can be added"
    for name, found, expected in (
        ("trace", row.trace_digest, wanted.trace_digest),
        ("compiled program", row.program_digest, wanted.program_digest),
        ("version of mfs", row.version, wanted.version),
    ):
        if found != expected:
            return f"its rows come from another {name} ({found}, not {expected})"
    return None
