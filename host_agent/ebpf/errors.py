"""Errors of the agent on a server; each message says what is wrong and the way out."""

from __future__ import annotations

from host_agent.protocol.errors import MfsError


class HostError(MfsError):
    """Base of every error that the agent raises on purpose."""


class KernelError(HostError):
    """The kernel, or what it lets this process do, is not enough; or it refused something."""


class ObjectError(HostError):
    """The compiled programs are missing, broken or older than their source."""


class InterfaceError(HostError):
    """The interface is not there, or is in a state that the agent must not change."""


class PolicyError(HostError):
    """There is no policy to rank by, or it does not fit."""


class RequestError(HostError):
    """What a client asked for cannot be done."""
