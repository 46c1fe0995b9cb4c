"""Names of places and flows for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.flight_recorder import Place, RecordedFlow
from mfs_eval.serving.prefill_batch import BatchRecord
from mfs_eval.setup.scenario import Scenario

STAGES = {Stage.KV_REUSE: "reused KV", Stage.COLLECTIVE: "collective", Stage.P2D: "KV to decode"}


class Names:
    """Names of what a run of ``scenario`` has. ``batches``: by number."""

    def __init__(self, scenario: Scenario, batches: Mapping[int, BatchRecord]) -> None:
        self._scenario = scenario
        self._batches = batches
        self._hosts = {host.id: host.name for tor in scenario.tors for host in tor.hosts}
        self._ports = {
            Place(switch, host.port): host.id for switch, tor in enumerate(scenario.tors) for host in tor.hosts
        }

    def host(self, host: int) -> str:
        """Return the name of a host, such as ``s2n1``: server and NIC, both from 1."""
        return self._hosts[host]

    def server(self, server: int) -> str:
        """Return the name of a server, such as ``s2``, from 1."""
        return f"s{server + 1}"

    def unit(self, unit: int) -> str:
        """Return the name of a prefill unit by its servers, such as ``s1+s2``."""
        return "+".join(map(self.server, self._scenario.cluster.units[unit]))

    def place(self, place: Place) -> str:
        """Return the name of a queueing place."""
        if place.switch is None:
            return f"NIC {self.host(place.number)}"
        rack = f"rack {place.switch + 1} " if len(self._scenario.tors) > 1 else ""
        if place in self._ports:
            return f"{rack}switch port to {self.host(self._ports[place])}"
        return f"{rack}uplink port {place.number}"

    def requests(self, numbers: Sequence[int]) -> str:
        """Return ``request 3`` or ``requests 3, 4``."""
        return f"request{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"

    def owner(self, flow: RecordedFlow | None) -> str:
        """Return what a flow carries and for whom, such as ``reused KV of batch 12``."""
        if flow is None:
            return "acknowledgements"
        what = STAGES.get(flow.spec.stage, "unmarked data")
        if flow.spec.request is not None:
            return f"{what} of request {flow.spec.request}"
        return f"{what} of batch {flow.spec.batch}"

    def flow(self, flow: RecordedFlow) -> str:
        """Return the name of a flow, such as ``collective of batch 12, layers 4 to 7, s1n1 to s2n1``."""
        spec, step = flow.spec, self._scenario.layers_per_step
        last = min(spec.target_layer + step, self._scenario.model.layers) - 1
        layers = f", {layers_named(spec.target_layer, last)}" if spec.stage is not Stage.P2D else ""
        return f"{self.owner(flow)}{layers}, {self.host(flow.source)} to {self.host(spec.destination)}"

    def batch(self, number: int) -> str:
        """Return the name of a batch with its requests."""
        return f"batch {number} ({self.requests(self._batches[number].requests)})"


def layers_named(first: int, last: int) -> str:
    """Return ``layer 3`` or ``layers 4 to 7``."""
    return f"layer {first}" if first == last else f"layers {first} to {last}"
