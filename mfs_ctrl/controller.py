"""The controller of one switch: start, tick, change of policy, stop.

Time is passed in; :mod:`mfs_ctrl.service` runs it in real time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.counters import (
    DISCARD_REASONS,
    DISCARDED,
    PORT_LEVEL,
    REGISTRATION,
    REGISTRATION_REFUSALS,
    Cells,
    Observation,
    cells_of_ports,
    observe,
)
from mfs_ctrl.desired import PolicyRows, SwitchParameters, base_entities, initial_biases, policy_rows
from mfs_ctrl.errors import NotPrimaryError
from mfs_ctrl.p4rt.entries import Entity
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.policy.policy import Policy, Thresholds
from mfs_ctrl.policy.tuner import NO_MOTION, Decision, PortState, evidence_cells, step, tuned_ports
from mfs_ctrl.rdma_entities import REGISTRATION_TABLE, rdma_entities
from mfs_ctrl.resume import resumed_policy, resumed_ports
from mfs_ctrl.switch import Session
from mfs_ctrl.writer import Writer, WriteReport
from p4src.artifact import Artifact
from topologies.topology import Topology

OnPolicy = Callable[[Policy, Mapping[int, int]], None]
"""Called with the policy in force and the bias of each port, after each change of either."""


@dataclass(frozen=True, slots=True)
class TickRecord:
    """Observations and actions of one tick.

    Attributes:
        time_ns: as passed to :meth:`Controller.tick`.
        policy: the policy's name.
        thresholds: those in force after the tick; None if the policy tunes none.
        biases: the bias code of each port.
        loads: the smoothed load of each port, 0 to 1.
        shares: what each tuning loop measured, by threshold; None without enough evidence.
        level_bytes: bytes that left at each level since the last tick, over all ports.
        writes: what was written.
        reason: what was tuned and why, as text.
        discards: packets that the program discarded since the last tick, by reason; reasons without any are left out.
    """

    time_ns: int
    policy: str
    thresholds: Thresholds | None
    biases: Mapping[int, int]
    loads: Mapping[int, float]
    shares: Mapping[str, float | None]
    level_bytes: tuple[int, ...]
    writes: WriteReport
    reason: str
    discards: Mapping[str, int]


class Controller:
    """Controller of one switch: keeps it in the state that topology, policy and parameters define, and tunes.

    The policy says which of its thresholds are tuned, and what counts as load of a port.
    While another controller is primary, ticks do nothing. The first tick after this controller has become primary reads
    what the switch holds, goes on from the tuned thresholds and biases in it, and writes what differs; ``taken_over``
    says how much that was, and ``loaded`` which program was loaded, if any.

    Args:
        session: to the switch; not yet connected.
        artifact: the program that the switch is to run.
        topology: ports, hosts and routes.
        policy: the policy to start with.
        parameters: the operator's other choices.
        on_policy: called on each change of policy or bias.
        tune_thresholds: False keeps thresholds as they are.
        tune_bias: False keeps biases as they are.
        replace: load the program over another one that the switch runs.
    """

    def __init__(
        self,
        session: Session,
        artifact: Artifact,
        topology: Topology,
        policy: Policy,
        parameters: SwitchParameters | None = None,
        on_policy: OnPolicy | None = None,
        tune_thresholds: bool = True,
        tune_bias: bool = True,
        replace: bool = False,
    ) -> None:
        self.session = session
        self.policy = policy
        self.artifact = artifact
        self.topology = topology
        self.parameters = parameters or SwitchParameters()
        self.on_policy = on_policy
        self._tune_thresholds = tune_thresholds
        self._tune_bias = tune_bias
        self._replace = replace
        self._ports = {port: PortState(0.0, bias) for port, bias in initial_biases(topology).items()}
        self._index: P4InfoIndex | None = None
        self._writer: Writer | None = None
        self._behind = False
        self._load_before: Cells = {}
        self._load_before_ns = 0
        self._evidence_before: Cells = {}
        self._motions = NO_MOTION
        self.taken_over = WriteReport()
        self.loaded = ""

    @property
    def biases(self) -> dict[int, int]:
        """The bias code that each port should have."""
        return {port: state.bias for port, state in self._ports.items()}

    @property
    def primary(self) -> bool:
        """Whether this controller has taken over the switch."""
        return self._writer is not None

    def start(self, now_ns: int = 0) -> WriteReport | None:
        """Connect, load the program if the switch lacks it, and write what differs; return None while not primary.

        May be called again after the connection was lost: the switch's state is then read again.

        Raises:
            SessionError: the switch cannot be reached or refuses something; the message says which and why.
        """
        self._writer = None
        self.session.connect()
        return self._take_over(now_ns) if self.session.claim() else None

    def tick(self, now_ns: int) -> TickRecord | None:
        """Do one step: read counters, decide, write differences. Returns None while another controller is primary.

        Raises:
            SessionError: the switch cannot be reached or refuses something; call :meth:`start` to recover.
        """
        if not self.session.claim():
            self._writer = None
            # Raises the reason if the session is lost.
            self.session.stream_errors()
            return None
        if self._writer is None:
            self._take_over(now_ns)
        cells = self._read_load()
        load = observe(self._load_before, cells, now_ns - self._load_before_ns)
        self._load_before, self._load_before_ns = cells, now_ns
        if self._tuned:
            evidence = self._read_evidence()
            decision = self._decide(observe(self._evidence_before, evidence), load)
            if decision.evidence_used:
                self._evidence_before = evidence
        else:
            decision = self._decide(Observation(), load)
        return self._act(decision, load, now_ns)

    def set_policy(self, policy: Policy) -> WriteReport | None:
        """Put another policy into force by switching epochs; return None while another controller is primary.

        Raises:
            SessionError: as for :meth:`tick`.
        """
        self.policy = policy
        if self._writer is None or not self.session.primary:
            return None
        report = self._reconcile()
        # What flows did under the old policy says nothing about the new one.
        self._evidence_before = self._read_evidence()
        self._motions = NO_MOTION
        self._tell()
        return report

    def set_topology(self, topology: Topology, parameters: SwitchParameters, now_ns: int) -> WriteReport | None:
        """Want other ports, hosts or parameters; return None while another controller is primary.

        The policy keeps its thresholds, and a port its bias unless its rate changes.

        Raises:
            SessionError: as for :meth:`tick`.
        """
        rates = self.topology.rates
        kept = {port: state for port, state in self._ports.items() if topology.rates.get(port) == rates[port]}
        self._ports = {port: kept.get(port, PortState(0.0, bias)) for port, bias in initial_biases(topology).items()}
        self.topology, self.parameters = topology, parameters
        if self._writer is None or not self.session.primary:
            return None
        report = self._reconcile()
        self._load_before, self._load_before_ns = self._read_load(), now_ns
        self._tell()
        return report

    def stop(self) -> None:
        """End the session. The switch keeps what it holds."""
        self._writer = None
        self.session.close()

    def _take_over(self, now_ns: int) -> WriteReport:
        self._index, self.loaded = self.session.ensure_pipeline(self.artifact, self._replace)
        self._writer = writer = Writer(self.session, self._index)
        self._resume(writer)
        self.taken_over = report = self._reconcile()
        self._load_before, self._load_before_ns = self._read_load(), now_ns
        self._evidence_before = self._read_evidence()
        self._tell()
        return report

    def _resume(self, writer: Writer) -> None:
        """Go on from what the switch holds, which its last primary tuned: it may have been another controller."""
        if self._tuned:
            self.policy = resumed_policy(self.policy, writer.rows_in_force())
        if self._tune_bias:
            self._ports = resumed_ports(self._ports, self.topology.rates, self.policy.load, writer.held())

    @property
    def _tuned(self) -> bool:
        return self._tune_thresholds and bool(self.policy.tuning)

    def _decide(self, flows: Observation, load: Observation) -> Decision:
        rates = self.topology.rates
        if self._tuned:
            decision = step(self.policy, flows, load, self._ports, rates, self._motions)
            return decision if self._tune_bias else dataclasses.replace(decision, ports=self._ports)
        ports = tuned_ports(self._ports, load, rates, self.policy.load) if self._tune_bias else self._ports
        return Decision(self.policy.thresholds, ports, {}, False, "not tuned")

    def _act(self, decision: Decision, load: Observation, now_ns: int) -> TickRecord:
        before = self.policy, self.biases
        self._ports = dict(decision.ports)
        self._motions = decision.motions
        if decision.thresholds != self.policy.thresholds:
            self.policy = self.policy.at(decision.thresholds)
        # While nothing wanted has changed, nothing differs.
        changed = self._behind or before != (self.policy, self.biases)
        report = self._reconcile() if changed else None
        if report is not None:
            self._tell()
        level_bytes = [0] * LEVELS
        for cell, count in load.port_level.items():
            level_bytes[cell.level] += count.bytes
        return TickRecord(
            now_ns,
            self.policy.name,
            self.policy.thresholds if self.policy.tuning else None,
            self.biases,
            {port: state.load for port, state in self._ports.items()},
            decision.shares,
            tuple(level_bytes),
            report or WriteReport(),
            decision.reason,
            load.discarded,
        )

    def _reconcile(self) -> WriteReport:
        assert self._writer is not None
        assert self._index is not None
        wanted = desired_state(self._index, self.topology, self.parameters, self.policy, self.biases)
        self._behind = True
        try:
            report = self._writer.apply(*wanted)
        except NotPrimaryError:
            # Another primary may write anything, so this controller reads the state again when it is primary.
            self._writer = None
            raise
        self._behind = False
        return report

    def _read_load(self) -> Cells:
        assert self._index is not None
        wanted: dict[str, Sequence[int]] = {
            PORT_LEVEL: cells_of_ports(self.topology.ports),
            DISCARDED: range(len(DISCARD_REASONS)),
        }
        if _registers(self._index):
            wanted[REGISTRATION] = tuple(REGISTRATION_REFUSALS)
        return self.session.read_counters(self._index, wanted)

    def _read_evidence(self) -> Cells:
        assert self._index is not None
        return self.session.read_counters(self._index, evidence_cells(self.policy)) if self._tuned else {}

    def _tell(self) -> None:
        if self.on_policy is not None:
            self.on_policy(self.policy, self.biases)


def desired_state(
    index: P4InfoIndex, topology: Topology, parameters: SwitchParameters, policy: Policy, biases: Mapping[int, int]
) -> tuple[tuple[Entity, ...], PolicyRows]:
    """Return what a switch that runs the program of ``index`` should hold: all but the policy, and the policy.

    Raises:
        DesiredStateError: topology, policy and parameters contradict one another.
    """
    base = base_entities(topology, parameters, biases)
    if _registers(index):
        base += rdma_entities(topology, parameters, policy.rules)
    return base, policy_rows(policy.rules, topology, parameters)


def _registers(index: P4InfoIndex) -> bool:
    """Return whether the program knows RoCEv2; on Tofino there is one without."""
    return REGISTRATION_TABLE in index.tables.by_name
