"""Timed notifications on the virtual clock: digests and idle timeouts as its events."""

from __future__ import annotations

from soft_switch.p4runtime.device import Device
from soft_switch.sim.events import VirtualClock


class VirtualTimer:
    """Timer that makes ``clock`` call :meth:`Device.send_due` whenever something is due.

    Entries with an idle timeout fall due repeatedly: run the clock to a given time, not until nothing is scheduled.
    """

    def __init__(self, device: Device, clock: VirtualClock) -> None:
        self._device = device
        self._clock = clock
        self._next_ns: int | None = None
        device.on_waiting = lambda: clock.call_soon(self._check)

    def _check(self) -> None:
        due_in_ns = self._device.send_due()
        if due_in_ns is None:
            return
        at_ns = self._clock.now_ns + max(due_in_ns, 1)
        if self._next_ns is None or not self._clock.now_ns < self._next_ns <= at_ns:
            self._next_ns = at_ns
            self._clock.call_at(at_ns, self._check)
