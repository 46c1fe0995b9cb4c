"""P4Runtime (v1.4) server of the embedded switch: one module per entity kind, `server.py` on top."""

from soft_switch.p4runtime.protobuf_versions import install

install()
