"""Functions that run as machine code. Numba compiles them at the first call and caches the result on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile ``function`` for its argument types, which may be numbers, arrays and tuples of arrays."""
    return cast(Callable[P, R], numba.njit(cache=True)(function))
