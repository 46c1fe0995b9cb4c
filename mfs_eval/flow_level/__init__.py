"""Serving at the scale of a data centre: flows as fluids that share links, beside the packet-level engine."""
