"""eBPF programs that are loaded for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import pytest

from host_agent.ebpf.bpf import Programs
from host_agent.ebpf.errors import KernelError


class Loaded(Protocol):
    """What has loaded the programs."""

    programs: Programs


H = TypeVar("H", bound=Loaded)


@contextmanager
def loaded(make: Callable[[], H]) -> Iterator[H]:
    """What ``make`` returns; skips where programs cannot be loaded."""
    if os.geteuid():
        pytest.skip("loading eBPF programs needs root")
    try:
        host = make()
    except KernelError as error:
        pytest.skip(str(error))
    try:
        yield host
    finally:
        host.programs.close()
