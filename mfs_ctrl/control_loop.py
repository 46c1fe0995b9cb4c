"""A controller in real time: connects, ticks and reconnects, logs each condition once, and keeps what status shows."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

from mfs_ctrl import port_rates
from mfs_ctrl.agents import Agents, left_on
from mfs_ctrl.controller import Controller, TickRecord
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.errors import ControlError, SessionError
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.writer import WriteReport
from topologies.topology import Topology

_LOG = logging.getLogger(__name__)


class _Named(logging.LoggerAdapter[logging.Logger]):
    """The log, each line of which begins with the name of the switch, if it has one."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See :meth:`logging.LoggerAdapter.process`."""
        name = (self.extra or {})["name"]
        return (f"{name}: {msg}" if name else msg), kwargs


class ControlLoop:
    """Loop around a controller of the switch at ``address``; one thread calls it, others may read the attributes.

    ``name`` stands in each line of the log; the switch has none where it is the only one.

    Attributes:
        name: name of the switch, by default its address.
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

    def __init__(self, controller: Controller, address: str, name: str = "") -> None:
        self.controller = controller
        self.address = address
        self.name = name or address
        self._log = _Named(_LOG, {"name": name})
        self.agents: Agents | None = None
        self.connected = False
        self.conditions: dict[str, str] = {}
        self.last: TickRecord | None = None
        self.last_tick_s = self.tick_s = 0.0
        self.ticks = self.losses = self.takeovers = 0
        self.written: Counter[str] = Counter()
        self.discards: Counter[str] = Counter()

    def start(self, now_ns: int) -> None:
        """Connect, or connect again.

        Raises:
            SessionError: the switch cannot be reached, or refuses something.
        """
        report = self.controller.start(now_ns)
        self.connected = True
        self.conditions.pop("switch", None)
        standing = "as backup: another controller is primary"
        if report is not None:
            standing = f"policy {self.controller.policy.name} in force, {self._took_over()}"
        self._log.info("connected%s to %s: %s", " again" if self.losses else "", self.address, standing)
        self._compare_rates()

    def tick(self, now_ns: int) -> None:
        """Do one tick, after connecting if there is no connection. Errors are logged."""
        controller = self.controller
        began_s = time.monotonic()
        try:
            if not self.connected:
                self.start(now_ns)
            was_primary = controller.primary
            record = controller.tick(now_ns)
            if controller.primary and not was_primary:
                self._log.info("primary now, %s", self._took_over())
            elif was_primary and not controller.primary:
                self._log.warning("backup now: another controller is primary")
            for complaint in controller.session.stream_errors():
                self._log.warning("the switch reports: %s", complaint)
        except ControlError as error:
            self.lose(str(error))
            return
        if record is not None:
            self.ticks += 1
            self.tick_s, self.last_tick_s, self.last = time.monotonic() - began_s, time.time(), record
            self._tell(record)
            self._check_agents()

    def change(self, topology: Topology, parameters: SwitchParameters, policy: Policy | None, now_ns: int) -> None:
        """Want other ports, hosts or parameters and, unless it is None, another policy. Errors are logged."""
        controller = self.controller
        try:
            reports = [controller.set_topology(topology, parameters, now_ns)]
            if policy is not None:
                reports.append(controller.set_policy(policy))
        except ControlError as error:
            self.lose(str(error))
            return
        written = [report for report in reports if report is not None]
        for report in written:
            self._count(report)
        if written:
            updates = sum(report.updates for report in written)
            self._log.info("changed: policy %s, %d entries written", controller.policy.name, updates)
        self._compare_rates()

    def lose(self, reason: str) -> None:
        """Note that the switch cannot be controlled, and end the session: what is known about it may be stale."""
        self.losses += self.connected
        self.connected = False
        self.note("switch", f"{reason}; trying again")
        self.controller.session.close()

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
            self._log.warning("%s", condition)
        else:
            del self.conditions[name]
            self._log.info("over: %s", before)

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
            self._log.info("%s", describe(record))
        for reason, packets in record.discards.items():
            # Once is enough to look for the cause; the counter `discarded` has the totals.
            level = logging.DEBUG if reason in self.discards else logging.WARNING
            self._log.log(level, "the switch discards packets: %s (%d since the last tick)", reason, packets)
        self.discards.update(record.discards)

    def _count(self, report: WriteReport) -> None:
        self.written.update(insert=report.inserts, modify=report.modifies, delete=report.deletes)


def describe(record: TickRecord) -> str:
    """Describe a tick that changed something, in one line."""
    thresholds = "".join(f", {name} {record.thresholds[name]}" for name in record.shares) if record.thresholds else ""
    measured = "".join(f", {share:.1%} for {name}" for name, share in record.shares.items() if share is not None)
    return f"{record.writes.updates} entries written: {record.reason}{thresholds}{measured}"
