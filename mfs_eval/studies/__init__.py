"""Studies: one question each."""
