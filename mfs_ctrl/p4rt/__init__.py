"""The P4Runtime client: entries, P4Info, conversion, the session."""

# The package of the switch makes the messages of P4Runtime importable under every version of protobuf.
import soft_switch.p4runtime  # noqa: F401
