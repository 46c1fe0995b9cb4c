"""Load of each link by early-stage flows, and the bias that urgencies get from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from host_agent.protocol.level import bias_code
from host_agent.protocol.units import LOAD_LIMIT
from mfs_eval.flow_level import ranking
from mfs_eval.flow_level.shares import Ints, Shares

LOAD_STEPS = 256
"""Loads are rounded down to this many steps."""
LOAD_MEMORY_NS = 90_000_000
"""Time constant of the smoothing, about that of :class:`mfs_eval.packet_level.hosts.load_meter.LoadMeter`."""


class PortLoads:
    """Smoothed loads of links.

    Args:
        rates_bps: rate of each link.
        load_error: factor between the true load and the one that biases follow.

    Attributes:
        bias: per link, the code of its bandwidth that early-stage flows leave over.
    """

    def __init__(self, rates_bps: Sequence[int], load_error: float) -> None:
        self._rates_bps = np.array(rates_bps)
        self._load_error = load_error
        self._loads = np.zeros(len(rates_bps))
        self._measured_ns = 0
        self._bias_of = {
            rate: np.array([bias_code(rate, step / LOAD_STEPS) for step in range(LOAD_STEPS)])
            for rate in set(rates_bps)
        }
        self.bias: Ints = np.array([self._bias_of[rate][0] for rate in rates_bps])

    def measure(self, state: Shares, known: ranking.Marks, flows: Ints, now_ns: int) -> None:
        """Record the rates of ``flows`` and update the biases."""
        sample = np.empty_like(self._loads)
        ranking.early_load(state, known, flows, sample)
        weight = 1 - math.exp(-(now_ns - self._measured_ns) / LOAD_MEMORY_NS)
        self._measured_ns = now_ns
        self._loads += weight * (sample - self._loads)
        steps = np.minimum(self._loads * self._load_error, LOAD_LIMIT) * LOAD_STEPS
        for rate, biases in self._bias_of.items():
            here = self._rates_bps == rate
            self.bias[here] = biases[steps[here].astype(np.int64)]
