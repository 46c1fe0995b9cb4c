"""``sweep.parquet``: the rows of ``sweep.csv`` with their types, for data frames."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from pydantic import ValidationError

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.sweep_rows import COLUMNS, Row

FILE = "sweep.parquet"
_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
SCHEMA = pa.schema([(name, _TYPES[Row.model_fields[name].annotation]) for name in COLUMNS])


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Write ``rows`` to ``path``; at no time is there half a file.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    parquet.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], SCHEMA), new)
    os.replace(new, path)


def read_parquet(path: Path) -> list[Row]:
    """The rows at ``path``.

    Raises:
        EvaluationError: it is another file.
        OSError: it cannot be read.
    """
    try:
        return [Row.model_validate(values) for values in parquet.read_table(path).to_pylist()]
    except (pa.ArrowInvalid, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(
            f"{path} holds no rows of mfs sweep: {reason}; remove it, or name another folder"
        ) from None
