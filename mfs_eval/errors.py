"""Errors of the evaluation. Each message names the thing, what is wrong with it and the way out."""

from __future__ import annotations

from host_agent.protocol.errors import MfsError


class EvaluationError(MfsError):
    """Base class of all errors that this package raises on purpose."""


class TraceError(EvaluationError):
    """A trace that cannot be read; the message names file, line and field."""


class ModelError(EvaluationError):
    """A model or GPU that is unknown, or whose numbers are out of range."""


class ClusterError(EvaluationError):
    """A cluster description that contradicts itself."""


class ServingError(EvaluationError):
    """A serving run with contradictory or out-of-range settings, or one that does not end."""
