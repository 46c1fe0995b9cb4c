"""Defaults of the commands, without the imports of what they run, so that ``mfs --help`` is fast."""

from __future__ import annotations

DEMO_REQUESTS = 180
"""Requests of a run of ``mfs demo``."""
ABLATION_REQUESTS = 120
"""Requests of a run of ``mfs ablate``."""
ABLATION_SCALE = 2000
"""Divisor of rates and bytes in ``mfs ablate``. At 8,000, the scale of the demo, a collective is six packets, and one
packet of a lower level that is on the wire when it starts costs it a sixth; at 2,000 it costs a twenty-fourth."""
SWEEP_REQUESTS = 1_536
"""Requests of a run of ``mfs sweep``, of which a third is warm-up."""
SWEEP_SERVERS = 256
"""Servers in ``mfs sweep``, with 2,048 GPUs."""
