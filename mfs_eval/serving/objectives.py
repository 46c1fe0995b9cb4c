"""Time-to-first-token objectives: a factor times what a request would take in an idle cluster.

The low-load TTFT of a request is measured, on the same serving model, with the request alone on the network, at the
unit and with the reuse that it has under load too. Arrival times and policies have no part in it: one base for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from mfs_eval.errors import ServingError
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.network_interface import Network
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.trace import Request

SLO_FACTOR = 3.0
"""By default a request may take three times its low-load TTFT."""
_NO_OBJECTIVE_NS = 10**15


class IdleNetwork(Network, Protocol):
    """A network that can run until nothing happens any more."""

    def run(self) -> None:
        """Run all that is scheduled."""


def low_load_records(
    config: ServingConfig, requests: Iterable[Request], placements: Mapping[int, Placement], network: IdleNetwork
) -> list[RequestRecord]:
    """What becomes of each request alone in the cluster, in the order of ``requests``.

    Args:
        config: what is served, on what.
        requests: the workload; its arrival times do not matter, each comes when the one before has ended.
        placements: for each request's index its unit and what it reuses there.
        network: where nobody else sends.

    Raises:
        ServingError: a request has no placement, or one at a unit that does not exist.
    """
    records = []
    for request in requests:
        alone = replace(request, arrival_ns=network.now_ns)
        serving = Serving(config, network, [alone], {request.index: _NO_OBJECTIVE_NS}, placements)
        serving.start()
        network.run()
        records.extend(serving.records)
    return records


def objectives(low_load: Iterable[RequestRecord], factor: float = SLO_FACTOR) -> dict[int, int]:
    """For each request's index its TTFT objective, nanoseconds: ``factor`` times its low-load TTFT.

    Raises:
        ServingError: ``factor`` is not positive.
    """
    if factor <= 0:
        raise ServingError(f"the factor of the objective must be positive, it is {factor}")
    return {record.index: round(record.ttft_ns * factor) for record in low_load}
