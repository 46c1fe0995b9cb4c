"""Port numbers of v1model: nine bits, the last of which means "drop"."""

from __future__ import annotations

from typing import Final

PORT_BITS: Final = 9
DROP_PORT: Final = (1 << PORT_BITS) - 1
"""An ``egress_spec`` of this drops the packet; the default of bmv2's simple_switch."""
HIGHEST_PORT: Final = DROP_PORT - 1
