"""P4Runtime (v1.4) server of the embedded switch: one module per kind of entity, and ``server`` on top."""

from soft_switch.p4runtime.protobuf_versions import install

install()
