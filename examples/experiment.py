"""An experiment in ten lines: two policies on the incast scenario, and how many requests are in time under each.

Run it with ``python examples/experiment.py``; it takes about ten seconds.
"""

from mfs_eval import run, scenarios

for policy in ("mfs", "fifo"):
    result = run(scenarios["incast"], policy=policy, request_rate=39, seed=1, requests=60)
    print(f"{policy:4}  in time {result.slo_attainment:.0%}  99th percentile of TTFT {result.ttft_p99_s:.3f} s")
