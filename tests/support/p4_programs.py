"""The small P4 programs of tests/p4, as they were compiled, and how to send a packet through one."""

from __future__ import annotations

import functools
from pathlib import Path

from soft_switch.backend import Backend, backend_of_environment
from soft_switch.pipeline import Pipeline

PROGRAMS = Path(__file__).parents[1] / "p4" / "build"


def program_text(name: str) -> str:
    """The compiled JSON of a program."""
    return (PROGRAMS / f"{name}.json").read_text()


def load(name: str) -> Pipeline:
    """A fresh pipeline of a program, run as the environment says."""
    return Pipeline.load(program_text(name), backend_of_environment())


def shared(name: str) -> Pipeline:
    """A pipeline of a program that tests share; one for each backend."""
    return _shared(name, backend_of_environment())


@functools.cache
def _shared(name: str, backend: Backend) -> Pipeline:
    return Pipeline.load(program_text(name), backend)


def send(pipeline: Pipeline, data: bytes, now_ns: int = 0, port: int = 0) -> bytes | None:
    """The bytes that come out, without time spent in a queue; None where the packet is dropped."""
    packet = pipeline.ingress(port, data, now_ns)
    return None if packet is None else pipeline.egress(packet, now_ns, now_ns, 0, 0)
