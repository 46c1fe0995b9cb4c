"""The codes that flows' levels depend on, for many flows at once. Levels are decided elsewhere, once per code.

The codes are those of :mod:`host_agent.protocol.level`, packed into one number per hop. Only if that number changes
does the level have to be decided again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from host_agent.protocol.level import CODE_MAX, CODE_STEPS, LevelKey
from host_agent.protocol.stamp import REMAINING_MAX_UNITS, REMAINING_UNIT_BYTES, SCAVENGER, SLACK_MAX_US, Stage
from mfs_eval.flow_level.allocation import set_cap, set_level
from mfs_eval.flow_level.compiled import compiled
from mfs_eval.flow_level.progress import OTHERS, OWN, SWITCHES
from mfs_eval.flow_level.shares import MAX_HOPS, NONE, Flags, Floats, Ints, Shares

_CODE_BITS = 8
_CODE_MASK = (1 << _CODE_BITS) - 1
_STAGE_BITS = 2
_P2D = int(Stage.P2D)
_SCAVENGER = int(SCAVENGER)
SHARE, OBEY, RANK = range(3)
"""Behaviour of switches: let all flows share alike, obey the level that the sender marked, or rank."""


class Marks(NamedTuple):
    """Knowledge about flows beyond their shares: one array per attribute, indexed by flow (``key`` by hop).

    Attributes:
        stage: stage.
        deadline_ns: deadline.
        beyond: bytes of its request that follow it.
        target: the layer that consumes it.
        batch: column of its batch in :class:`~mfs_eval.flow_level.progress.Progress`.
        request: the request that needs it; :data:`~mfs_eval.flow_level.shares.NONE` if a whole batch does.
        foreign: whether its sender is outside the batch's own hosts.
        pruned: whether its request is given up.
        payload: payload bytes per wire byte.
        key: packed codes of the last ranking; :data:`~mfs_eval.flow_level.shares.NONE` before the first.
    """

    stage: Ints
    deadline_ns: Ints
    beyond: Ints
    target: Ints
    batch: Ints
    request: Ints
    foreign: Flags
    pruned: Flags
    payload: Floats
    key: Ints


def marks(flows: int) -> Marks:
    """Return marks with space for ``flows`` flows."""
    return Marks(
        stage=np.zeros(flows, np.int64),
        deadline_ns=np.zeros(flows, np.int64),
        beyond=np.zeros(flows, np.int64),
        target=np.zeros(flows, np.int64),
        batch=np.zeros(flows, np.int64),
        request=np.full(flows, NONE),
        foreign=np.zeros(flows, np.bool_),
        pruned=np.zeros(flows, np.bool_),
        payload=np.ones(flows),
        key=np.full(flows * MAX_HOPS, NONE),
    )


def grown(old: Marks, flows: int) -> Marks:
    """Return ``old`` with space for ``flows`` flows."""
    wider = marks(flows)
    for new, known in zip(wider, old, strict=True):
        new[: len(known)] = known
    return wider


def unpacked(key: int) -> LevelKey:
    """Return the table key that ``key`` stands for."""
    codes = []
    for _ in range(4):
        codes.append(key & _CODE_MASK)
        key >>= _CODE_BITS
    remaining, slack, urgency, rli = codes
    return LevelKey(Stage(key >> 1), key & 1, rli, urgency, slack, remaining)


@compiled
def log2_code(value: int) -> int:
    """:func:`host_agent.protocol.level.log2_code`, compiled."""
    if value <= 1:
        return 0
    exponent = 0
    while value >> (exponent + 1):
        exponent += 1
    return exponent * CODE_STEPS + (((value << 3) >> exponent) & 7)


@compiled
def changed_keys(
    state: Shares,
    known: Marks,
    flows: Ints,
    now: int,
    bias: Ints,
    progress: Ints,
    hosts_rank: bool,
    switches: int,
    out_hops: Ints,
    out_keys: Ints,
) -> int:
    """Write the hops of ``flows`` whose keys have changed, and the new keys; return how many there are.

    Args:
        state: shares of the flows.
        known: what else is known of them.
        flows: numbers of the flows; those that do not exist are skipped.
        now: the time.
        bias: per link.
        progress: see :class:`~mfs_eval.flow_level.progress.Progress`.
        hosts_rank: whether hosts rank; otherwise their hops are skipped.
        switches: :data:`RANK`, :data:`OBEY` or :data:`SHARE`.
        out_hops, out_keys: results; long enough for all hops.
    """
    count = 0
    for index in range(len(flows)):
        flow = flows[index]
        if not state.hops[flow]:
            continue
        slack = (known.deadline_ns[flow] - now) // 1000
        slack = min(slack, SLACK_MAX_US)
        if known.pruned[flow]:
            slack = min(slack, 0)
        late = 1 if slack <= 0 else 0
        slack_code = 0 if late else log2_code(slack)
        left = max(0.0, state.left[flow] - state.rate[flow] * (now - state.since[flow]))
        remaining = int(np.ceil(left * known.payload[flow])) + known.beyond[flow]
        units = min(-(-remaining // REMAINING_UNIT_BYTES), REMAINING_MAX_UNITS)
        remaining_code = log2_code(units)
        batch = known.batch[flow]
        for position in range(state.hops[flow]):
            if (switches == SHARE) if position else not hosts_rank:
                continue
            hop = flow * MAX_HOPS + position
            ranking_hop = hop if switches == RANK else flow * MAX_HOPS
            layer = progress[OTHERS if known.foreign[flow] else OWN, batch]
            if position and switches == RANK:  # a switch knows what stamps carry, or something newer
                layer = max(layer, progress[SWITCHES, batch])
            rli = max(0, known.target[flow] - layer)
            urgency = CODE_MAX
            if not late:
                urgency = max(0, min(CODE_MAX, remaining_code + bias[state.link[ranking_hop]] - slack_code))
            key = known.stage[flow] << 1 | late
            key = key << _CODE_BITS | rli
            key = key << _CODE_BITS | urgency
            key = key << _CODE_BITS | slack_code
            key = key << _CODE_BITS | remaining_code
            if key != known.key[hop]:
                out_hops[count] = hop
                out_keys[count] = key
                count += 1
    return count


@compiled
def apply_levels(state: Shares, known: Marks, hops: Ints, keys: Ints, levels: Ints) -> None:
    """Apply the levels decided for ``keys``, ratcheted as everywhere: a hop rises, or falls to the scavenger only."""
    for index in range(len(hops)):
        hop, decided = hops[index], levels[index]
        first = known.key[hop] < 0
        known.key[hop] = keys[index]
        if first or decided > state.level[hop] or decided == _SCAVENGER:
            set_level(state, hop, decided)


@compiled
def pace(state: Shares, known: Marks, flows: Ints, now: int, stage: int, share: float) -> None:
    """Cap flows of ``stage`` at the rate that delivers all bytes of their request within ``share`` of their slack.

    Late flows have no cap.
    """
    for index in range(len(flows)):
        flow = flows[index]
        if state.hops[flow] and known.stage[flow] == stage:
            slack = known.deadline_ns[flow] - now
            cap = np.inf
            if slack > 0 and not known.pruned[flow]:
                left = max(0.0, state.left[flow] - state.rate[flow] * (now - state.since[flow]))
                cap = max(1e-9, (left + known.beyond[flow] / known.payload[flow]) / (slack * share))
            set_cap(state, flow, cap)


@compiled
def early_load(state: Shares, known: Marks, flows: Ints, out: Floats) -> None:
    """Write the rate of early-stage flows on each link, as a share of its capacity, to ``out``."""
    out[:] = 0.0
    for index in range(len(flows)):
        flow = flows[index]
        if known.stage[flow] != _P2D:
            for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
                out[state.link[hop]] += state.rate[flow] / state.capacity[state.link[hop]]
