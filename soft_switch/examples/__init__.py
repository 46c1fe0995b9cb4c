"""Example programs; see docs/guide/soft-switch.md."""
