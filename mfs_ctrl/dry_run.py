"""What a controller would write to a switch, found by reading alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mfs_ctrl import port_rates
from mfs_ctrl.controller import desired_state
from mfs_ctrl.desired import SwitchParameters, initial_biases
from mfs_ctrl.p4rt.entries import Entity
from mfs_ctrl.p4rt.p4info import P4InfoIndex, describe
from mfs_ctrl.p4rt.reader import Requests
from mfs_ctrl.p4rt.updates import DELETE, INSERT, MODIFY, Update
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.policy.tuner import PortState
from mfs_ctrl.resume import resumed_policy, resumed_ports
from mfs_ctrl.writer import Writer
from p4src.artifact import Artifact
from topologies.topology import Topology


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between a switch and what a controller wants of it.

    Attributes:
        program: what would happen to the program, as text.
        updates: in the order in which they would be written.
        rates: how rates of ports differ, as text; empty if they do not.
    """

    program: str
    updates: tuple[Update, ...]
    rates: str

    def lines(self) -> Iterator[str]:
        """Yield the difference for people, one line each."""
        yield f"program: {self.program}"
        if self.rates:
            yield f"rates: {self.rates}"
        yield from map(str, self.updates)
        counts = Counter(update.operation for update in self.updates)
        yield f"{counts[INSERT]} to insert, {counts[MODIFY]} to modify, {counts[DELETE]} to delete; nothing was written"


def difference(
    reader: Requests, artifact: Artifact, topology: Topology, policy: Policy, parameters: SwitchParameters
) -> Difference:
    """Return what a controller that starts now would change.

    Raises:
        SessionError: the switch does not answer.
        DesiredStateError: what is wanted does not fit the program.
    """
    index = P4InfoIndex.from_text(artifact.p4info)
    held = reader.program()
    same = held is not None and held.p4info == index.message
    if same:
        program = f"{artifact.name}, as wanted"
    elif held is None:
        program = f"none; {artifact.name} would be loaded"
    else:
        program = f"{describe(held.p4info)}; only with --replace {artifact.name} is loaded instead"
    recorder = _Recorder(reader if same else None)
    writer = Writer(recorder, index)
    policy = resumed_policy(policy, writer.rows_in_force())
    ports = {port: PortState(0.0, bias) for port, bias in initial_biases(topology).items()}
    ports = resumed_ports(ports, topology.rates, policy.load, writer.held())
    biases = {port: state.bias for port, state in ports.items()}
    writer.apply(*desired_state(index, topology, parameters, policy, biases))
    return Difference(program, tuple(recorder.updates), port_rates.differences(topology.rates, reader.port_rates()))


class _Recorder:
    """Stands for a switch, and keeps updates instead of writing them; without ``reader`` the switch is empty."""

    def __init__(self, reader: Requests | None) -> None:
        self.updates: list[Update] = []
        self._reader = reader

    def read_state(self, index: P4InfoIndex) -> Iterable[Entity]:
        return () if self._reader is None else self._reader.read_state(index)

    def write(self, updates: Sequence[Update], index: P4InfoIndex) -> int:  # noqa: ARG002
        self.updates += updates
        return 1

    def holds(self, present: Entity, wanted: Entity) -> bool:
        return present == wanted
