"""IP addresses in requests."""

from __future__ import annotations

import ipaddress

from host_agent.protocol.errors import RequestError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address(name: str, text: object) -> Address:
    """Return the field ``name`` as an IP address.

    Raises:
        RequestError: it is not one.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("not a string")
        return ipaddress.ip_address(text)
    except ValueError:
        raise RequestError(f"{name} {text!r} is not an IPv4 or IPv6 address") from None
