"""Programs to begin with; see docs/guide/soft-switch.md."""
