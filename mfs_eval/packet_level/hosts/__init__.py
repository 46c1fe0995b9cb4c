"""Simulated hosts: agent, send order and transport."""
