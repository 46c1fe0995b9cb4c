"""The packet-level engine: the compiled program, packet by packet."""
