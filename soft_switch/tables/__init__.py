"""Match-action tables, action profiles and value sets."""
