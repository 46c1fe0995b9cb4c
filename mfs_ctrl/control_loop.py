"""A controller in real time: connects, ticks and reconnects, logs each condition once, and keeps what status shows."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter

from mfs_ctrl import port_rates
from mfs_ctrl.agents import Agents, left_on
from mfs_ctrl.controller import Controller, TickRecord
from mfs_ctrl.errors import SessionError
from mfs_ctrl.writer import WriteReport

_LOG = logging.getLogger(__name__)


class ControlLoop:
    """Loop around a controller of the switch at ``address``; one thread calls it, others may read the attributes.

    Attributes:
        connected: whether the switch answered last.
        conditions: what is wrong now and what to do about it, by name; each is logged when it comes and when it goes.
        last: the record of the last tick as primary.
        last_tick_s: when that was, in seconds since 1970; 0 before the first.
        tick_s: what it took, in seconds.
        ticks: ticks as primary.
        losses: how often the switch was lost.
        takeovers: how often this controller became primary.
        written: updates written, by operation.
        agents: the host agents that are heard, where the controller serves the policy.
        discards: packets that the program discarded while this controller was primary, by reason.
    """

    CONDITIONS = ("switch", "rates", "stamps")
    """What may be wrong: the switch is lost, has other rates, or stamps reach hosts where nobody takes them off."""

    def __init__(self, controller: Controller, address: str) -> None:
        self.controller = controller
        self.address = address
        self.agents: Agents | None = None
        self.connected = False
        self.conditions: dict[str, str] = {}
        self.last: TickRecord | None = None
        self.last_tick_s = self.tick_s = 0.0
        self.ticks = self.losses = self.takeovers = 0
        self.written: Counter[str] = Counter()
        self.discards: Counter[str] = Counter()

    def start(self, now_ns: int) -> None:
        """Connect for the first time.

        Raises:
            SessionError: the switch cannot be reached, or refuses something.
        """
        report = self.controller.start(now_ns)
        self.connected = True
        if report is None:
            _LOG.info("connected to %s as backup: another controller is primary", self.address)
        else:
            name = self.controller.policy.name
            _LOG.info("connected to %s: policy %s in force, %s", self.address, name, self._took_over())
        self._compare_rates()

    def tick(self, now_ns: int) -> None:
        """Do one tick, after reconnecting if the switch was lost. Errors of the session are logged."""
        controller = self.controller
        began_s = time.monotonic()
        try:
            if not self.connected:
                report = controller.start(now_ns)
                self.connected = True
                self.conditions.pop("switch", None)
                _LOG.info("connected again%s", "" if report is None else f", {self._took_over()}")
                self._compare_rates()
            was_primary = controller.primary
            record = controller.tick(now_ns)
            if controller.primary and not was_primary:
                _LOG.info("primary now, %s", self._took_over())
            elif was_primary and not controller.primary:
                _LOG.warning("backup now: another controller is primary")
            for complaint in controller.session.stream_errors():
                _LOG.warning("the switch reports: %s", complaint)
        except SessionError as error:
            self.losses += self.connected
            self.connected = False
            self.note("switch", f"{error}; trying again")
            # What is known about the switch may be stale now.
            controller.session.close()
            return
        if record is not None:
            self.ticks += 1
            self.tick_s, self.last_tick_s, self.last = time.monotonic() - began_s, time.time(), record
            self._tell(record)
            self._check_agents()

    def _check_agents(self) -> None:
        if self.agents is not None:
            controller = self.controller
            stripped = controller.parameters.stamp_unaware_ports
            self.note("stamps", left_on(controller.topology.hosts, stripped, self.agents))

    def note(self, name: str, condition: str) -> None:
        """Log what is wrong about ``name``, with the way out, unless it was logged; an empty text ends it."""
        before = self.conditions.get(name, "")
        if condition == before:
            return
        if condition:
            self.conditions[name] = condition
            _LOG.warning("%s", condition)
        else:
            del self.conditions[name]
            _LOG.info("over: %s", before)

    def _took_over(self) -> str:
        """Count a takeover, and describe it."""
        self.takeovers += 1
        self._count(self.controller.taken_over)
        written = f"{self.controller.taken_over.updates} entries written"
        return f"{self.controller.loaded}, {written}" if self.controller.loaded else written

    def _compare_rates(self) -> None:
        # That the switch was lost meanwhile is for the next tick.
        with contextlib.suppress(SessionError):
            told = self.controller.session.port_rates()
            self.note("rates", port_rates.differences(self.controller.topology.rates, told))

    def _tell(self, record: TickRecord) -> None:
        self._count(record.writes)
        if record.writes.updates:
            _LOG.info("%s", describe(record))
        for reason, packets in record.discards.items():
            # Once is enough to look for the cause; the counter `discarded` has the totals.
            level = logging.DEBUG if reason in self.discards else logging.WARNING
            _LOG.log(level, "the switch discards packets: %s (%d since the last tick)", reason, packets)
        self.discards.update(record.discards)

    def _count(self, report: WriteReport) -> None:
        self.written.update(insert=report.inserts, modify=report.modifies, delete=report.deletes)


def describe(record: TickRecord) -> str:
    """Describe a tick that changed something, in one line."""
    thresholds = "".join(f", {name} {record.thresholds[name]}" for name in record.shares) if record.thresholds else ""
    measured = "".join(f", {share:.1%} for {name}" for name, share in record.shares.items() if share is not None)
    return f"{record.writes.updates} entries written: {record.reason}{thresholds}{measured}"
