"""Objectives of the time to first token (TTFT): a multiple of a request's TTFT in an idle cluster.

The low-load TTFT is measured on the same serving model with the request alone on the network, at the unit and with the
reuse that it also has under load. It depends on neither arrival times nor policies, so all policies have the same
objectives.
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
"""The default objective is three times the low-load TTFT."""
_NO_OBJECTIVE_NS = 10**15


class IdleNetwork(Network, Protocol):
    """A network that can run until no event is left."""

    def run(self) -> None:
        """Run all events."""


def low_load_records(
    config: ServingConfig, requests: Iterable[Request], placements: Mapping[int, Placement], network: IdleNetwork
) -> list[RequestRecord]:
    """Return the outcome of each request alone in the cluster, in the order of ``requests``.

    Args:
        config: what is served, on which hardware.
        requests: the workload. Arrival times are ignored: each request arrives when the previous one has finished.
        placements: by request index, the prefill unit and what the request reuses there.
        network: an otherwise idle network.

    Raises:
        ServingError: a placement is missing or names a unit that does not exist.
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
    """Return the TTFT objective of each request by index, in nanoseconds: ``factor`` times its low-load TTFT.

    Raises:
        ServingError: ``factor`` is not positive.
    """
    if factor <= 0:
        raise ServingError(f"the objective's factor must be positive, it is {factor}")
    return {record.index: round(record.ttft_ns * factor) for record in low_load}
