"""Files of results: that they can be written is found out before the runs, and told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mfs_eval.errors import EvaluationError


def check_writable(path: Path) -> None:
    """Find out whether ``path`` can be written, and leave it as it is.

    Raises:
        OSError: it cannot.
    """
    # Before the runs: nobody should wait for minutes to be told that the results cannot be kept.
    new = not path.exists()
    path.open("a").close()
    if new:
        path.unlink()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Within it, an OSError is an EvaluationError that names the file (or ``out``) and the way out."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EvaluationError(f"cannot write {where}: {error.strerror}; choose another folder with --out") from None
