"""How an agent introduces itself to the controller: a header of its request for the policy (RFC 9110, section 5.6.6).

``MFS-Agent: mac=02:00:00:00:01:01; interface=eth0; carrier=option; version=0.2.0``
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "MFS-Agent"
LENGTH_MAX = 256
"""Longer values are not read: whoever reaches the controller may send them."""
_VALUE = re.compile(r"[\w.:@+-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Who asks for the policy: the MAC address of the agent's interface, its name, carrier, and the agent's version."""

    mac: str
    interface: str
    carrier: str
    version: str

    def to_header(self) -> str:
        """Return the value of the header."""
        fields = {
            "mac": self.mac,
            "interface": self.interface,
            "carrier": self.carrier,
            "version": self.version,
        }
        return "; ".join(f"{name}={value}" for name, value in fields.items())

    @classmethod
    def from_header(cls, text: str) -> AgentIdentity | None:
        """Read a value of the header; None if it is not one."""
        if len(text) > LENGTH_MAX:
            return None
        fields = dict(part.strip().partition("=")[::2] for part in text.split(";"))
        values = [fields.get(name, "") for name in ("mac", "interface", "carrier", "version")]
        return cls(*values) if all(_VALUE.fullmatch(value) for value in values) else None
