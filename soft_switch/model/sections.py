"""Sections of the bmv2 JSON: reading each item of a list, with errors that name the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from soft_switch.errors import ArtifactError
from soft_switch.model.expressions import Json

Item = TypeVar("Item")


@contextmanager
def section(where: str) -> Iterator[None]:
    """Turn errors of reading what is not of the expected form into :class:`ArtifactError` that names ``where``."""
    try:
        yield
    except KeyError as error:
        raise ArtifactError(f"{where}: {error.args[0]!r} is missing or unknown") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ArtifactError(f"{where}: malformed ({error})") from error
    except RecursionError as error:
        raise ArtifactError(f"{where}: nested too deeply") from error


def read_each(root: Json, key: str, read: Callable[[Any], Item]) -> list[Item]:
    """Read each item of the list ``root[key]``.

    Raises:
        ArtifactError: the list is missing, or an item does not have the expected form.
    """
    with section(key):
        items = list(root[key])
    result = []
    for number, item in enumerate(items):
        name = item.get("name", number) if isinstance(item, dict) else number
        with section(f"{key} {name!r}"):
            result.append(read(item))
    return result
