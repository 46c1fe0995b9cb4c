"""Progress of batches, as known to their own hosts, other hosts and switches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mfs_eval.flow_level.shares import Ints

OWN, OTHERS, SWITCHES = range(3)
"""Rows of :attr:`Progress.layers`: the batch's own hosts, other hosts, and switches beyond what stamps tell them."""


class Progress:
    """Current layer of each batch, by who knows it.

    Attributes:
        layers: one row per knower, one column per batch.
    """

    def __init__(self) -> None:
        self.layers: Ints = np.zeros((3, 1024), np.int64)
        self._columns: dict[int, int] = {}
        self._own: dict[int, frozenset[int]] = {}

    def column(self, batch: int) -> int:
        """Return the column of ``batch`` in ``layers``; a new batch gets the next one."""
        column = self._columns.get(batch)
        if column is None:
            column = self._columns[batch] = len(self._columns)
            if column >= self.layers.shape[1]:
                self.layers = np.hstack([self.layers, np.zeros_like(self.layers)])
        return column

    def set_hosts(self, batch: int, hosts: Iterable[int]) -> None:
        """Note the hosts that compute ``batch``; the first call for a batch counts."""
        if batch not in self._own:
            self._own[batch] = frozenset(hosts)

    def is_own(self, host: int, batch: int) -> bool:
        """Return whether ``host`` is one of those that compute ``batch``."""
        return host in self._own.get(batch, ())

    def learn(self, who: Iterable[int], column: int, layer: int) -> None:
        """Note that ``who`` (:data:`OWN`, :data:`OTHERS`, :data:`SWITCHES`) know that a batch is at ``layer``."""
        for one in who:
            self.layers[one, column] = max(self.layers[one, column], layer)
