"""Programs to begin with; see docs/soft_switch.md."""
