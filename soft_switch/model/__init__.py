"""The program as the artifact describes it, and the externs of v1model."""
