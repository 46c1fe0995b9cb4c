"""Definitions that hosts, switch and controller share: stamp, level decision, flows, policy document, units."""
