"""The controller of one switch: start, tick, change of policy, stop. Time is passed in; ``service.py`` has a timer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.counters import PORT_LEVEL, Cells, Observation, cells_of_ports, observe
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases, policy_rows
from mfs_ctrl.errors import NotPrimaryError
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy.policy import Policy, Thresholds, mfs
from mfs_ctrl.policy.tuner import AT_REST, EVIDENCE_CELLS, Decision, PortState, TunerSettings, step, tuned_ports
from mfs_ctrl.writer import Writer, WriteReport
from p4src.artifact import Artifact
from topologies.topology import Topology

OnPolicy = Callable[[Policy, Mapping[int, int]], None]
"""Told the policy in force and the bias of each port, after each change of either."""


@dataclass(frozen=True, slots=True)
class TickRecord:
    """What one tick saw and did. Shares are None where there was too little evidence, thresholds where none are."""

    time_ns: int
    policy: str
    thresholds: Thresholds | None
    biases: Mapping[int, int]
    loads: Mapping[int, float]
    late_share: float | None
    tight_share: float | None
    level_bytes: tuple[int, ...]
    writes: WriteReport
    reason: str


class Controller:
    """Keeps one switch at the state that topology, policy and parameters ask for, and tunes it.

    A policy without thresholds is not tuned; the biases of ports are kept at the measured load under every policy.
    As long as another controller is primary, ticks do nothing; the first after it has gone, or we have become primary,
    takes over: what the switch holds is read, and what differs is written. ``taken_over`` says how much that was.

    ``tune_thresholds=False`` keeps thresholds as they are, ``tune_bias=False`` biases.
    """

    def __init__(
        self,
        session: Session,
        artifact: Artifact,
        topology: Topology,
        policy: Policy,
        parameters: SwitchParameters | None = None,
        settings: TunerSettings | None = None,
        on_policy: OnPolicy | None = None,
        tune_thresholds: bool = True,
        tune_bias: bool = True,
    ) -> None:
        self.session = session
        self.policy = policy
        self._artifact = artifact
        self._topology = topology
        self._parameters = parameters or SwitchParameters()
        self._settings = settings or TunerSettings()
        self._on_policy = on_policy
        self._tune_thresholds = tune_thresholds
        self._tune_bias = tune_bias
        self._ports = {port: PortState(0.0, bias) for port, bias in initial_biases(topology).items()}
        self._index: P4InfoIndex | None = None
        self._writer: Writer | None = None
        self._behind = False
        self._load_before: Cells = {}
        self._load_before_ns = 0
        self._evidence_before: Cells = {}
        self._motion = AT_REST
        self.taken_over = WriteReport()

    @property
    def biases(self) -> dict[int, int]:
        """The bias code of each port, as wanted."""
        return {port: state.bias for port, state in self._ports.items()}

    @property
    def primary(self) -> bool:
        """Whether this controller has taken over the switch."""
        return self._writer is not None

    def start(self, now_ns: int = 0) -> WriteReport | None:
        """Connect, give the switch its program if it lacks it, and write what differs; None while not primary.

        May be called again after a loss of the connection: the switch's state is then read afresh.

        Raises:
            SessionError: the switch cannot be reached or refuses something; the message says which and why.
        """
        self._writer = None
        self.session.connect()
        return self._take_over(now_ns) if self.session.claim() else None

    def tick(self, now_ns: int) -> TickRecord | None:
        """One step: read counters, decide, write differences. None while another controller is primary.

        Raises:
            SessionError: the switch cannot be reached or refuses something; call :meth:`start` to recover.
        """
        if not self.session.claim():
            self._writer = None
            # Of a session that is lost, this raises the reason.
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
        """Put another policy into force, by a switch of epochs; None while another controller is primary.

        Raises:
            SessionError: as for :meth:`tick`.
        """
        self.policy = policy
        if self._writer is None or not self.session.primary:
            return None
        report = self._reconcile()
        # What flows did under the old policy says nothing of the new one.
        self._evidence_before = self._read_evidence()
        self._motion = AT_REST
        self._tell()
        return report

    def stop(self) -> None:
        """End the session. The switch keeps what it holds."""
        self._writer = None
        self.session.close()

    def _take_over(self, now_ns: int) -> WriteReport:
        self._index, _ = self.session.ensure_pipeline(self._artifact)
        self._writer = Writer(self.session, self._index)
        self.taken_over = report = self._reconcile()
        self._load_before, self._load_before_ns = self._read_load(), now_ns
        self._evidence_before = self._read_evidence()
        self._tell()
        return report

    @property
    def _tuned(self) -> bool:
        return self._tune_thresholds and self.policy.thresholds is not None

    def _decide(self, flows: Observation, load: Observation) -> Decision:
        rates = self._topology.rates
        thresholds = self.policy.thresholds
        if thresholds is not None and self._tuned:
            decision = step(thresholds, flows, load, self._ports, rates, self._settings, self._motion)
            return decision if self._tune_bias else dataclasses.replace(decision, ports=self._ports)
        ports = tuned_ports(self._ports, load, rates, self._settings) if self._tune_bias else self._ports
        held = thresholds or Thresholds()
        return Decision(held, ports, None, None, False, "not tuned")

    def _act(self, decision: Decision, load: Observation, now_ns: int) -> TickRecord:
        before = self.policy, self.biases
        self._ports = dict(decision.ports)
        self._motion = decision.motion
        if self.policy.thresholds is not None and decision.thresholds != self.policy.thresholds:
            self.policy = retuned(self.policy, decision.thresholds)
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
            self.policy.thresholds,
            self.biases,
            {port: state.load for port, state in self._ports.items()},
            decision.late_share,
            decision.tight_share,
            tuple(level_bytes),
            report or WriteReport(),
            decision.reason,
        )

    def _reconcile(self) -> WriteReport:
        assert self._writer is not None
        base = base_entities(self._topology, self._parameters, self.biases)
        self._behind = True
        try:
            report = self._writer.apply(base, policy_rows(self.policy.rules, self._topology, self._parameters))
        except NotPrimaryError:
            # Whoever is primary now may write anything; a later turn of ours begins by reading.
            self._writer = None
            raise
        self._behind = False
        return report

    def _read_load(self) -> Cells:
        assert self._index is not None
        return self.session.read_counters(self._index, {PORT_LEVEL: cells_of_ports(self._topology.ports)})

    def _read_evidence(self) -> Cells:
        assert self._index is not None
        return self.session.read_counters(self._index, EVIDENCE_CELLS) if self._tuned else {}

    def _tell(self) -> None:
        if self._on_policy is not None:
            self._on_policy(self.policy, self.biases)


def retuned(policy: Policy, thresholds: Thresholds) -> Policy:
    """``policy`` with other thresholds: only policies of the MFS kind have any."""
    return dataclasses.replace(mfs(thresholds), name=policy.name)
