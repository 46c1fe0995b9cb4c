"""The program that the artifact describes, and the externs of v1model."""
