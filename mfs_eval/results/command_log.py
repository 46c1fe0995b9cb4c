"""``commands.json``: the commands that wrote the rows of a folder, which no single row can say."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mfs_eval.errors import EvaluationError
from mfs_eval.results.output import write_atomically
from mfs_eval.results.provenance import commit

FILE = "commands.json"


class Command(BaseModel):
    """A command as it was typed, the trace that it replayed, and the commit of the sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    command: str
    trace: str
    commit: str


_COMMANDS = TypeAdapter(list[Command])


def record(folder: Path, command: str, trace: str) -> None:
    """Add a command to those of ``folder``, unless it is among them.

    Raises:
        EvaluationError: the file there holds something else.
        OSError: it cannot be read or written.
    """
    found = read(folder)
    this = Command(command=command, trace=trace, commit=commit())
    if command and this not in found:
        write_atomically(folder / FILE, _COMMANDS.dump_json([*found, this], indent=1).decode() + "\n")


def read(folder: Path) -> list[Command]:
    """Return the commands that wrote to ``folder``, the earliest first; none if nothing says so.

    Raises:
        EvaluationError: the file holds something else.
        OSError: it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return _COMMANDS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise EvaluationError(f"{path}: {error.errors()[0]['msg']}; remove the file") from None


def described(folder: Path) -> dict[str, object]:
    """Return the commands that wrote to ``folder`` for readers: each quantity with its values in turn."""
    found = read(folder)
    return {
        name: "; ".join(dict.fromkeys(value for one in found if (value := getattr(one, name))))
        for name in Command.model_fields
        if any(getattr(one, name) for one in found)
    }
