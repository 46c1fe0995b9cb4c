"""Egress queues: strict priority with guaranteed shares at a constant bit rate."""
