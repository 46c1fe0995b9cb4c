"""Workloads, the serving model, and experiments on the packet-level engine."""
