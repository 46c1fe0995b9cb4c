"""The command ``mfs switch``. The one module here that imports other packages: for the default program, and options."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from host_agent.command_line import BitRate, logging_options
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS
from soft_switch.backend import Backend
from soft_switch.options import backend_option
from soft_switch.ports import HIGHEST_PORT
from soft_switch.queues.traffic_manager import QUEUE_BYTES

if TYPE_CHECKING:
    from prometheus_client import Metric

    from soft_switch.p4runtime.server import TLS
    from soft_switch.realtime.driver import Driver

_LOG = logging.getLogger(__name__)
_FILE = click.Path(path_type=Path, dir_okay=False)


class PortAtInterface(click.ParamType):  # type: ignore[type-arg]
    """A switch port on a network interface, as ``simple_switch -i`` takes it, and the port's own rate if it has one."""

    name = "port@interface[@rate]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, str, int | None]:
        """See :meth:`click.ParamType.convert`."""
        if isinstance(value, tuple):
            return value
        number, _, rest = value.partition("@")
        interface, _, rate = rest.partition("@")
        if not (number.isdecimal() and int(number) <= HIGHEST_PORT and interface):
            self.fail(f"{value!r} is not PORT@INTERFACE with a port of 0 to {HIGHEST_PORT}, e.g. 1@veth1.", param, ctx)
        return int(number), interface, BitRate().convert(rate, param, ctx) if "@" in rest else None


@click.command(short_help="Run the embedded switch and serve it over P4Runtime.")
@click.option(
    "--address", default=DEFAULT_P4RUNTIME_ADDRESS, show_default=True, help="Address of the P4Runtime server."
)
@click.option(
    "--device-id",
    type=click.IntRange(0, 2**64 - 1),
    default=1,
    show_default=True,
    help="P4Runtime device id. The specification forbids 0, which simple_switch_grpc and its clients use by default.",
)
@click.option("--cpu-port", type=click.IntRange(0, HIGHEST_PORT), help="Port of packet-in and packet-out.")
@click.option("--empty", is_flag=True, help="Start without a program; a controller pushes one.")
@click.option(
    "--device-config", type=_FILE, help="Run this program, the JSON of p4c-bm2-ss, instead of MFS; needs --p4info."
)
@click.option("--p4info", type=_FILE, help="P4Info (text) of --device-config.")
@click.option(
    "-i",
    "--interface",
    "interfaces",
    type=PortAtInterface(),
    multiple=True,
    help="Put a port on a network interface, e.g. 1@veth1, or 1@veth1@40M to give it its own rate; may be repeated.",
)
@click.option(
    "--rate",
    type=BitRate(),
    default="20M",
    show_default=True,
    help="Rate of each port on an interface; preamble, FCS and gap included.",
)
@click.option(
    "--queue-bytes",
    type=click.IntRange(min=0),
    default=QUEUE_BYTES,
    show_default=True,
    help="Bytes that each of the eight queues of a port on an interface holds; more are dropped.",
)
@backend_option
@click.option(
    "--queue-trace",
    type=_FILE,
    help="Write a CSV row for each packet that enters or leaves a queue, or is dropped there; needs -i.",
)
@click.option("--tls-cert", type=_FILE, help="Serve P4Runtime over TLS with this certificate (PEM); needs --tls-key.")
@click.option("--tls-key", type=_FILE, help="Private key (PEM) of --tls-cert.")
@click.option("--tls-client-ca", type=_FILE, help="Require client certificates that these authorities (PEM) signed.")
@click.option(
    "--metrics-listen",
    metavar="[HOST:]PORT",
    help="Serve /metrics, /healthz and /readyz over HTTP; PORT alone is of the loopback interface. Needs -i.",
)
@logging_options
def switch(
    address: str,
    device_id: int,
    empty: bool,
    device_config: Path | None,
    p4info: Path | None,
    cpu_port: int | None,
    interfaces: tuple[tuple[int, str, int | None], ...],
    rate: int,
    queue_bytes: int,
    queue_trace: Path | None,
    backend: Backend,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    metrics_listen: str | None,
) -> None:
    """Run the embedded switch and serve it over P4Runtime.

    It runs the MFS program, or the one that --device-config names, unless --empty is given. Without -i it has no ports,
    for work on controllers. Ctrl-C or SIGTERM ends it.
    """
    from p4src import artifact

    if (device_config is None) != (p4info is None):
        raise click.UsageError("--device-config and --p4info go together.")
    if empty and device_config is not None:
        raise click.UsageError("--empty and --device-config exclude each other.")
    if not interfaces and queue_trace is not None:
        raise click.UsageError("--queue-trace needs a port: -i PORT@INTERFACE.")
    if not interfaces and metrics_listen is not None:
        raise click.UsageError("--metrics-listen needs a port: -i PORT@INTERFACE.")
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    if not empty and device_config is None:
        artifact.load()
        name = artifact.BUILD / "mfs_v1model"
        device_config, p4info = name.with_suffix(".json"), name.with_suffix(".p4info.txtpb")
    if interfaces:
        from soft_switch.queues.traffic_manager import QueueConfig
        from soft_switch.realtime.serving import PortSpec, run_on_interfaces

        run_on_interfaces(
            [PortSpec(number, interface, own or rate) for number, interface, own in interfaces],
            address=address,
            device_id=device_id,
            cpu_port=cpu_port,
            device_config=device_config,
            p4info=p4info,
            queue_trace=queue_trace,
            queue=QueueConfig(limit_bytes=queue_bytes),
            tls=tls,
            backend=backend,
            beside=None if metrics_listen is None else functools.partial(_serving, metrics_listen),
        )
    else:
        _run_without_ports(address, device_id, cpu_port, device_config, p4info, tls, backend)
    _LOG.info("stopped")


@contextlib.contextmanager
def _serving(address: str, driver: Driver) -> Iterator[None]:
    """Serve the switch's metrics and health within the block."""
    from host_agent.http_endpoint import HttpEndpoint, health_routes
    from host_agent.metrics_route import PATH, metrics_route

    def collect() -> Iterator[Metric]:
        from soft_switch.metrics import switch_metrics

        return switch_metrics(driver)

    def unready() -> str:
        missing = [port for port, condition in driver.conditions.items() if condition != "up"]
        if missing:
            return f"the interfaces of ports {', '.join(map(str, missing))} are down or gone"
        return "" if driver.switch.pipeline is not None else "no program is loaded"

    with HttpEndpoint(address, {PATH: metrics_route(collect), **health_routes(unready)}) as endpoint:
        _LOG.info("serving metrics at %s%s", endpoint.url, PATH)
        yield


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TLS | None:
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if certificate is None or key is None:
        if client_ca is not None:
            raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key.")
        return None
    from soft_switch.p4runtime.server import TLS

    return TLS(certificate, key, client_ca)


def _run_without_ports(
    address: str,
    device_id: int,
    cpu_port: int | None,
    config: Path | None,
    p4info: Path | None,
    tls: TLS | None,
    backend: Backend,
) -> None:
    from soft_switch.p4runtime.server import serve
    from soft_switch.signals import stop_on_signal
    from soft_switch.switch import Switch

    stopped = threading.Event()
    with stop_on_signal(stopped.set):
        server = serve(
            Switch(cpu_port),
            address=address,
            device_id=device_id,
            device_config=config,
            p4info=p4info,
            tls=tls,
            backend=backend,
        )
        stopped.wait()
        server.stop(0)
