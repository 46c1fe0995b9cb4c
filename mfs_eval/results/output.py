"""Output files: checked before the runs, replaced atomically, and with errors of one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mfs_eval.errors import EvaluationError


def check_writable(path: Path) -> None:
    """Check that ``path`` can be written, and leave it as it is.

    Raises:
        OSError: it cannot.
    """
    # Before the runs: otherwise an unwritable path would be found only after minutes of work.
    new = not path.exists()
    path.open("a").close()
    if new:
        path.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by way of a temporary file beside it: readers see the old content or the new.

    Raises:
        OSError: the file cannot be written; the old content is still there.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(text, "utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn an OSError in the block into an EvaluationError that names the file (or ``out``) and the way out."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EvaluationError(f"cannot write {where}: {error.strerror}; choose another place with --out") from None
