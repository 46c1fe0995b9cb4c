"""Whether links carry data while flows wait for them, from the kernel's counters of the switch's interfaces."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

SAMPLE_S = 0.01
BUSY_SHARE = 0.1
"""A link that carries less than this share of its rate is idle: acknowledgements alone do not make it busy."""
STALL_S = 0.05
"""A shorter time is not a stall."""
_INTERFACES = Path("/sys/class/net")


class FlowTime(NamedTuple):
    """When a flow was pending, on CLOCK_MONOTONIC in seconds, and the ports of its sender and its receiver."""

    started_s: float
    ended_s: float
    sender: int
    receiver: int


class Load(NamedTuple):
    """Whether hosts sent (``up``) and received (``down``) data between two samples, by port."""

    up: Mapping[int, bool]
    down: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class Stalls:
    """Times of at least :data:`STALL_S` in which a flow was pending and neither of its two links carried data.

    Attributes:
        longest_s: the longest time without data, in seconds, even if it is shorter.
        total_s: sum over all flows, in seconds.
        flows: flows with such a time.
    """

    longest_s: float = 0.0
    total_s: float = 0.0
    flows: int = 0


def stalls(flows: Sequence[FlowTime], times_s: Sequence[float], loads: Sequence[Load]) -> Stalls:
    """Return the stalls of ``flows``; ``loads[n]`` is what happened between ``times_s[n]`` and ``times_s[n + 1]``."""
    longest_s = total_s = 0.0
    count = 0
    for flow in flows:
        gaps = list(_gaps(flow, times_s, loads))
        stalled_s = sum(gap for gap in gaps if gap >= STALL_S)
        longest_s = max(longest_s, *gaps, 0.0)
        total_s += stalled_s
        count += stalled_s > 0
    return Stalls(longest_s, total_s, count)


def _gaps(flow: FlowTime, times_s: Sequence[float], loads: Sequence[Load]) -> Iterator[float]:
    """Yield the lengths of the times in which both links of ``flow`` were idle."""
    gap_s = 0.0
    for index in range(bisect_left(times_s, flow.started_s), bisect_right(times_s, flow.ended_s) - 1):
        if loads[index].up[flow.sender] or loads[index].down[flow.receiver]:
            yield gap_s
            gap_s = 0.0
        else:
            gap_s += times_s[index + 1] - times_s[index]
    yield gap_s


class LinkMeter:
    """Samples the bytes of links in a thread; a context manager."""

    def __init__(self, interfaces: Mapping[int, str], rates_bps: Mapping[int, int]) -> None:
        """Set the switch's interface of each port, and the rate of its link in bits per second.

        Raises:
            OSError: there is no such interface.
        """
        self._stack = contextlib.ExitStack()
        self._files = {
            port: tuple(
                self._stack.enter_context((_INTERFACES / name / "statistics" / f"{way}_bytes").open("rb", buffering=0))
                for way in ("rx", "tx")
            )
            for port, name in interfaces.items()
        }
        self._least = {port: rates_bps[port] / 8 * BUSY_SHARE for port in interfaces}
        self._times_s: list[float] = []
        self._bytes: list[dict[int, tuple[int, ...]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link-meter", daemon=True)

    def __enter__(self) -> LinkMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._stack.close()

    def stalls(self, flows: Sequence[FlowTime]) -> Stalls:
        """Return the stalls of ``flows`` while this sampled."""
        loads = []
        for start_s, end_s, before, after in zip(
            self._times_s, self._times_s[1:], self._bytes, self._bytes[1:], strict=False
        ):
            busy = [
                {
                    port: after[port][way] - before[port][way] >= self._least[port] * (end_s - start_s)
                    for port in self._files
                }
                for way in (0, 1)
            ]
            loads.append(Load(*busy))
        return stalls(flows, self._times_s, loads)

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            sample = {port: tuple(map(_number, files)) for port, files in self._files.items()}
            self._times_s.append(time.monotonic())
            self._bytes.append(sample)


def _number(file: FileIO) -> int:
    file.seek(0)
    return int(file.read())
