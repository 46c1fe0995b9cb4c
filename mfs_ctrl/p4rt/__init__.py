"""The P4Runtime client: entries, P4Info, conversion, the session."""
