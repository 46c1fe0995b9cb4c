"""Two flows to one slow port, in queues of different priority: ``python -m soft_switch.examples.dscp_queues``."""

from __future__ import annotations

from pathlib import Path

import click
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from soft_switch import QueueEvent, Testbench
from soft_switch.queues.queue_trace import DEQUEUE

PROGRAM = Path(__file__).with_name("dscp_queues.json")
SLOW_BPS = 10_000_000
EXPEDITED = 46
"""The DSCP for traffic that must not wait (RFC 3246)."""
MILLISECOND_NS = 1_000_000


def run() -> Testbench:
    """Offer a port of 10 Mb/s 12 Mb/s of ordinary packets and 3 Mb/s of expedited ones, in queue 7, for 50 ms."""
    bench = Testbench.load(PROGRAM)
    bench.add_port(2, rate_bps=SLOW_BPS)
    next_hop = {"port": 2, "next_hop": "02:00:00:00:00:02"}
    bench.tables["route"].insert({"ipv4.destination": "10.0.2.0/24"}, "forward", next_hop)
    bench.tables["queue_of_dscp"].insert({"ipv4.dscp": EXPEDITED}, "set_queue", {"queue": 7})
    ordinary = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:fe") / IP(dst="10.0.2.1") / UDP() / (b"x" * 1434)
    expedited = ordinary.copy()
    expedited[IP].tos = EXPEDITED << 2
    for number in range(50):
        bench.send(1, ordinary, at_ns=number * MILLISECOND_NS)
        if number % 4 == 0:
            bench.send(1, expedited, at_ns=number * MILLISECOND_NS)
    bench.run()
    return bench


def draw(trace: list[QueueEvent], path: Path) -> None:
    """Draw the bytes in each queue over time to an SVG file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.add_subplot(xlabel="milliseconds", ylabel="bytes in the queue")
    for queue in sorted({event.queue for event in trace}):
        events = [event for event in trace if event.queue == queue]
        times = [event.time_ns / MILLISECOND_NS for event in events]
        axes.step(times, [event.queue_bytes for event in events], where="post", label=f"queue {queue}")
    axes.legend()
    with mpl.rc_context({"svg.hashsalt": "mfs"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


@click.command()
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw the queues to this SVG file.")
def main(picture: Path | None) -> None:
    """Print how long packets waited in each queue."""
    trace = run().trace
    waits: dict[int, list[int]] = {}
    for event in trace:
        if event.event == DEQUEUE:
            waits.setdefault(event.queue, []).append(event.waited_ns)
    for queue, waited in sorted(waits.items(), reverse=True):
        click.echo(f"queue {queue}: {len(waited)} packets, waited {max(waited) / MILLISECOND_NS:.2f} ms at most")
    if picture is not None:
        draw(trace, picture)


if __name__ == "__main__":
    main()
