"""P4Runtime (v1.4) server of the embedded switch: one module per entity kind, `server.py` on top."""
