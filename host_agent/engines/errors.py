"""Errors of transfers between engines. Each message names the peer or the request, and the reason."""

from __future__ import annotations

from host_agent.protocol.errors import AgentError


class TransferError(AgentError):
    """A transfer that failed: the peer is gone, too slow, or sent something invalid."""


class ClosedError(TransferError):
    """The peer closed the connection between two frames."""


class RefusedError(TransferError):
    """The peer refused: another version, layout or secret, or it does not expect the transfer."""


class ParamsError(AgentError):
    """``kv_transfer_params["mfs"]`` or the connector's configuration is invalid."""


class BuildError(AgentError):
    """The plugin of NCCL cannot be compiled."""
