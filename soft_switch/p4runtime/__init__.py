"""P4Runtime (v1.4) server of the embedded switch: a module for each kind of entity, and ``server`` on top."""
