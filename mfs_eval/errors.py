"""Errors of the evaluation; each message names the thing that is wrong and the way out."""

from __future__ import annotations

from host_agent.protocol.errors import MfsError


class EvaluationError(MfsError):
    """Base of all errors that this package raises on purpose."""


class TraceError(EvaluationError):
    """A trace that cannot be read; the message names file, line and field."""


class ModelError(EvaluationError):
    """A model or GPU that is not known, or whose numbers make no sense."""


class ClusterError(EvaluationError):
    """A cluster description that contradicts itself."""


class ServingError(EvaluationError):
    """A serving run that was set up wrongly."""
