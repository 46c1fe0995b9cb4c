"""The queue settings as text for Stratum's chassis config; Stratum's process does not serve BF Runtime.

The message is ``VendorConfig`` of Stratum's ``common.proto``; the text belongs in the chassis config file. It does not
include the shaping of ports, for which Stratum uses other port numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from mfs_ctrl.tofino.queues import SHARED_POOL, Setting, Value

NODE_ID = 1
"""Stratum numbers the chips of a chassis from 1; a top-of-rack switch has one."""
SAME_WEIGHT = 1
"""All queues of a port differ in priority, so that weights have no effect."""

_POOLS = {SHARED_POOL: "EGRESS_APP_POOL_0"}


def chassis_text(rows: Iterable[Setting]) -> Iterator[str]:
    """Yield the lines of ``vendor_config { ... }`` for the queues among ``rows`` of :func:`queues.settings`."""
    yield "vendor_config {"
    yield "  tofino_config {"
    yield "    node_id_to_qos_config {"
    yield f"      key: {NODE_ID}"
    yield "      value {"
    queues = [row for row in rows if row.level is not None]
    for dev_port, of_port in groupby(queues, key=lambda row: row.dev_port):
        yield "        queue_configs {"
        yield f"          sdk_port: {dev_port}"
        for level, of_level in groupby(of_port, key=lambda row: row.level):
            merged = {name: value for row in of_level for name, value in row.data.items()}
            yield from _queue(level or 0, merged)
        yield "        }"
    yield "      }"
    yield "    }"
    yield "  }"
    yield "}"


def _queue(level: int, data: Mapping[str, Value]) -> Iterator[str]:
    yield "          queue_mapping {"
    yield f"            queue_id: {level}"
    # Stratum has one priority for both the guaranteed and the remaining rate.
    yield f"            priority: PRIO_{data['max_priority']}"
    yield f"            weight: {SAME_WEIGHT}"
    yield f"            minimum_guaranteed_cells: {data['guaranteed_cells']}"
    yield f"            pool: {_POOLS[str(data['pool_id'])]}"
    yield f"            base_use_limit: {data['pool_max_cells']}"
    yield "            baf: DISABLE_BAF"
    if data["min_rate_enable"]:
        rate, burst = int(data["min_rate"]) * 1000, data["min_burst_size"]
        yield f"            min_rate_bytes {{ rate_bps: {rate} burst_bytes: {burst} }}"
    yield "          }"
