"""``mfs switch -i`` on the real kernel: forwarding, rates, priorities, offloads, bad input, shutdown."""

from __future__ import annotations

import contextlib
import csv
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from host_agent.protocol.stamp import ETHERTYPE_MFS, Stage, Stamp
from mfs_eval.bench.interfaces import measure
from mfs_eval.packet_level.hosts.frames import ip_udp_header
from p4src.artifact import load
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.realtime import offloads, saved_offloads
from soft_switch.realtime.errors import InterfaceError
from soft_switch.realtime.packet_socket import PacketSocket
from soft_switch.realtime.serving import PortSpec, check_ports
from tests.support.agent import ip
from tests.support.cli import COMMAND, finished, messages, one_error, started
from tests.support.controller import eventually
from tests.support.native import no_machine_code
from tests.support.realtime import controlled, fresh_prefix, needs_ping, real_kernel, switch_on
from topologies import namespaces
from topologies.namespaces import Realised
from topologies.processes import free_address
from topologies.topology import neighbours, tor

TOPOLOGY = tor(3, 1, 10_000_000)
HOSTS = TOPOLOGY.hosts


@pytest.fixture
def rack() -> Iterator[Realised]:
    with namespaces.standing([TOPOLOGY], fresh_prefix()) as realised:
        yield realised


def refused(*arguments: str) -> str:
    return one_error(finished("switch", "--address", free_address(), *arguments))


def frame(source: int, target: int, stage: Stage, slack_us: int, payload: bytes) -> bytes:
    here, there = HOSTS[source], HOSTS[target]
    stamp = Stamp(stage, batch=source + 1, flow=1, slack_us=slack_us, remaining=1000)
    return (
        TOPOLOGY.switch_mac
        + here.mac
        + ETHERTYPE_MFS.to_bytes(2, "big")
        + stamp.pack()
        + ip_udp_header(here.ipv4.packed, there.ipv4.packed, 0, len(payload), 0)
        + payload
    )


@contextlib.contextmanager
def network_interfaces(rack: Realised) -> Iterator[list[PacketSocket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                contextlib.closing(
                    namespaces.inside(rack.namespaces[host.server], lambda: PacketSocket("nic1", frames=4096))
                )
            )
            for host in HOSTS
        ]


class TestPackets:
    @real_kernel
    def test_the_queue_trace_has_a_row_for_every_packet(self, rack: Realised, tmp_path: Path) -> None:
        trace = tmp_path / "queues.csv"
        with (
            switch_on(rack, TOPOLOGY, 0, "--queue-trace", str(trace)) as (address, process),
            controlled(address, TOPOLOGY),
            network_interfaces(rack) as (sender, receiver, _),
        ):
            for number in range(5):
                sender.send(frame(0, 1, Stage.COLLECTIVE, 1000, bytes(100 + number)))
            for _ in range(5):
                eventually(lambda: receiver.take() is not None)
            process.end()
        rows = list(csv.DictReader(trace.open()))
        assert Counter(row["event"] for row in rows if row["port"] == "2") == {"enqueue": 5, "dequeue": 5}
        assert all(int(row["waited_ns"]) >= 0 for row in rows)

    @real_kernel
    def test_packets_go_on_when_the_disk_of_the_queue_trace_is_full(self, rack: Realised) -> None:
        with (
            switch_on(rack, TOPOLOGY, 0, "--queue-trace", "/dev/full") as (address, process),
            controlled(address, TOPOLOGY),
            network_interfaces(rack) as (sender, receiver, _),
        ):
            # Rows are written in blocks of some kilobytes.
            for number in range(400):
                sender.send(frame(0, 1, Stage.COLLECTIVE, 1000, bytes(100 + number)))
                eventually(lambda: receiver.take() is not None)
            status, _, errors = process.end()
        assert status == 0
        assert errors.count("the queue trace /dev/full ends after") == 1, errors
        assert "No space left on device" in errors

    @needs_ping
    @real_kernel
    def test_pings_cross_a_switch_whose_controller_wrote_its_entries(self, rack: Realised) -> None:
        with switch_on(rack, TOPOLOGY) as (address, _), controlled(address, TOPOLOGY):
            for target in (str(HOSTS[1].ipv4), str(HOSTS[1].ipv6)):
                where = ("ip", "netns", "exec", rack.namespaces[0])
                done = subprocess.run(
                    [*where, "ping", "-c", "3", "-i", "0.05", "-W", "2", target], capture_output=True, text=True
                )
                assert " 3 received" in done.stdout, done.stdout + done.stderr

    @real_kernel
    def test_ports_do_not_exceed_their_rate(self, rack: Realised) -> None:
        with switch_on(rack, TOPOLOGY) as (address, _), controlled(address, TOPOLOGY):
            results = measure(TOPOLOGY, rack, 1500, 1.3, 0.7)
        # A busy machine may be late, but a port never exceeds its rate for long.
        assert all(0.6 < result.rate_bps / TOPOLOGY.rate_bps < 1.05 for result in results)

    @real_kernel
    def test_on_a_congested_port_the_urgent_flow_loses_nothing_and_the_other_gets_the_rest(
        self, rack: Realised
    ) -> None:
        streams = {
            0: frame(0, 2, Stage.COLLECTIVE, 10_000, b"urgent".ljust(1400, b"\0")),
            1: frame(1, 2, Stage.P2D, 2_000_000_000, b"later".ljust(1400, b"\0")),
        }
        interval_ns = round(wire_bytes(len(streams[0])) * 8e9 / (TOPOLOGY.rate_bps * 0.7))
        sent: Counter[int] = Counter()
        received: Counter[str] = Counter()
        with (
            switch_on(rack, TOPOLOGY) as (address, _),
            controlled(address, TOPOLOGY),
            network_interfaces(rack) as interfaces,
        ):

            def collect() -> None:
                while (taken := interfaces[2].take()) is not None:
                    received["urgent" if b"urgent" in taken else "later"] += 1

            began = time.monotonic_ns()
            # Long enough to overflow the lower queue: 1.5 s at 0.4 of the rate too much are 750 kB.
            while (passed_ns := time.monotonic_ns() - began) < 1_500_000_000:
                for source, data in streams.items():
                    while sent[source] < passed_ns / interval_ns:
                        interfaces[source].send(data)
                        sent[source] += 1
                collect()
                time.sleep(0.0005)
            while (before := received.total()) or not before:
                time.sleep(0.3)
                collect()
                if received.total() == before:
                    break
        assert received["urgent"] >= 0.99 * sent[0]
        # The other flow's queue holds 256 KB; what exceeds that and the free part of the link is lost.
        assert 0.2 * sent[1] < received["later"] < 0.9 * sent[1]

    def test_reads_do_not_wait_for_packets(self) -> None:
        from mfs_ctrl.p4rt.session import Session
        from soft_switch.p4runtime.server import P4RuntimeServer
        from soft_switch.switch import Switch

        switch = Switch()
        server = P4RuntimeServer(switch)
        server.start()
        try:
            session = Session(server.address)
            session.connect()
            index, _ = session.ensure_pipeline(load())
            # As while a packet is processed.
            with switch.lock:
                assert len(session.read_counters(index, {"laxity": None})["laxity"]) == 512
                assert list(session.read_state(index))
            session.close()
        finally:
            server.stop(0)


class TestMetrics:
    @needs_ping
    @real_kernel
    def test_what_a_switch_sends_is_in_its_metrics_and_health_tells_of_lost_interfaces(self, rack: Realised) -> None:
        with started(
            "switch",
            *("--address", (address := free_address())),
            *rack.switch_options(TOPOLOGY, 0),
            *("--metrics-listen", "0"),
        ) as process:
            lines = [process.log_line() for _ in range(3)]
            url = lines[2].removeprefix("serving metrics at ").removesuffix("/metrics")

            def get(path: str) -> str:
                with urllib.request.urlopen(url + path, timeout=60) as answer:
                    text: str = answer.read().decode()
                    return text

            def metric(name: str, **labels: str) -> float:
                for family in text_string_to_metric_families(get("/metrics")):
                    for sample in family.samples:
                        if sample.name == name and sample.labels == labels:
                            return sample.value
                raise AssertionError(f"there is no {name} {labels}")

            assert get("/readyz") == "ok\n"
            assert metric("soft_switch_port_bytes_per_second", port="1") == TOPOLOGY.rate_bps / 8
            with controlled(address, TOPOLOGY):
                where = ("ip", "netns", "exec", rack.namespaces[0])
                subprocess.run([*where, "ping", "-c", "3", "-i", "0.05", str(HOSTS[1].ipv4)], capture_output=True)
            eventually(lambda: metric("soft_switch_port_sent_packets_total", port="2") >= 3)
            interface = rack.ports[0][1]
            assert metric("soft_switch_port_up", port="1", interface=interface) == 1
            ip("link", "set", interface, "down")
            eventually(lambda: metric("soft_switch_port_up", port="1", interface=interface) == 0)
            with pytest.raises(urllib.error.HTTPError) as refused:
                get("/readyz")
            assert (refused.value.code, refused.value.read()) == (503, b"the interfaces of ports 1 are down or gone\n")
            refused.value.close()
            assert get("/healthz") == "ok\n"
            assert process.end()[0] == 0


class TestInterfaces:
    @real_kernel
    def test_offloads_are_off_while_it_runs_and_restored_on_sigterm(self, rack: Realised) -> None:
        interface = rack.ports[0][1]
        offloads.restore(interface, {"tx": 1, "gro": 1})
        assert set(offloads.active(interface)) >= {"tx", "gro"}
        with switch_on(rack, TOPOLOGY) as (_, process):
            assert offloads.active(interface) == ()
            status, out, log = process.end()
        assert (status, out, messages(log)) == (0, "", ["stopped"])
        assert set(offloads.active(interface)) >= {"tx", "gro"}

    @real_kernel
    @pytest.mark.parametrize("mended", ["the next switch", "mfs clean"])
    def test_offloads_that_a_killed_switch_left_off_are_restored(self, rack: Realised, mended: str) -> None:
        interface = rack.ports[0][1]
        offloads.restore(interface, {"tx": 1, "gro": 1})
        with switch_on(rack, TOPOLOGY) as (_, process):
            assert saved_offloads.clean() == []
            process.end(signal.SIGKILL)
        assert offloads.active(interface) == ()
        if mended == "mfs clean":
            assert f"{interface} (offloads)" in saved_offloads.clean()
        else:
            with switch_on(rack, TOPOLOGY) as (_, process):
                process.end()
        assert set(offloads.active(interface)) >= {"tx", "gro"}
        assert saved_offloads.clean() == []

    @real_kernel
    def test_frames_without_checksum_are_reported_with_the_remedy(self, rack: Realised) -> None:
        inside = rack.namespaces[0]
        namespaces.inside(inside, lambda: offloads.restore("nic1", {"tx": 1}))
        with switch_on(rack, TOPOLOGY) as (_, process):
            with namespaces.inside(inside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                sender.sendto(b"x" * 100, (str(HOSTS[1].ipv4), 9))
            line = process.log_line()
            assert line.startswith("port 1: frames arrive without checksums")
            assert "ethtool -K PEER tx off" in line
            _, _, log = process.end()
            assert "1 dropped without checksum" in log

    @real_kernel
    def test_vlan_tags_are_restored_in_the_frame(self, rack: Realised) -> None:
        tagged = bytes(6) + b"\2" * 6 + bytes.fromhex("8100 0064 88b5") + bytes(60)
        with (
            contextlib.closing(PacketSocket(rack.ports[0][1])) as receiver,
            contextlib.closing(namespaces.inside(rack.namespaces[0], lambda: PacketSocket("nic1"))) as sender,
        ):
            assert sender.send(tagged)
            frames: list[bytes] = []
            eventually(lambda: frames.append(receiver.take() or b"") or tagged in frames)

    @real_kernel
    def test_an_interface_that_disappears_is_logged_and_the_switch_keeps_running(self, rack: Realised) -> None:
        with switch_on(rack, TOPOLOGY) as (_, process):
            namespaces.clean(rack.prefix)
            assert "is gone" in process.log_line()
            status, _, log = process.end()
            assert (status, messages(log)[-1]) == (0, "stopped")
            assert "Traceback" not in log

    @needs_ping
    @real_kernel
    @pytest.mark.parametrize("pipeline", ["python", "c"])
    def test_an_interface_that_is_made_again_is_attached_and_others_forward_meanwhile(
        self, rack: Realised, pipeline: str
    ) -> None:
        if pipeline == "c" and no_machine_code():
            pytest.skip(no_machine_code())

        def ping(source: int, target: int) -> bool:
            where = ("ip", "netns", "exec", rack.namespaces[source])
            words = [*where, "ping", "-c", "1", "-W", "1", str(HOSTS[target].ipv4)]
            return b" 1 received" in subprocess.run(words, capture_output=True, check=False).stdout

        interface, inside = rack.ports[0][1], rack.namespaces[0]
        with switch_on(rack, TOPOLOGY, 0, "--pipeline", pipeline) as (address, process), controlled(address, TOPOLOGY):
            eventually(lambda: ping(0, 1))
            ip("link", "del", interface)
            gone = f"port 1: interface {interface} is gone; it is attached again when it is made again"
            assert process.log_line() == gone
            assert ping(1, 2)
            peer = ("peer", "name", "nic1", "address", HOSTS[0].mac.hex(":"), "netns", inside)
            ip("link", "add", interface, "type", "veth", *peer)
            assert process.log_line() == f"port 1: interface {interface} was made again and is attached"
            assert process.log_line().startswith(f"port 1: interface {interface} is down")
            ip("link", "set", interface, "up")
            assert process.log_line() == f"port 1: interface {interface} is up again"
            known = neighbours([TOPOLOGY])
            namespaces.inside(inside, lambda: namespaces._start_hosts(HOSTS[:1], known))
            assert offloads.active(interface) == ()
            eventually(lambda: ping(0, 1))
            ip("link", "set", interface, "down")
            assert process.log_line().startswith(f"port 1: interface {interface} is down")
            ip("link", "set", interface, "up")
            assert process.log_line() == f"port 1: interface {interface} is up again"
            eventually(lambda: ping(0, 1))
            status, _, log = process.end()
        assert status == 0
        assert "Traceback" not in log

    @real_kernel
    def test_an_interface_of_another_switch_is_refused(self, rack: Realised) -> None:
        with switch_on(rack, TOPOLOGY):
            assert f"another switch runs on interface {rack.ports[0][1]}" in refused("-i", f"1@{rack.ports[0][1]}")

    def test_an_interface_that_does_not_exist_is_refused(self) -> None:
        assert refused("-i", "1@nosuch") == "error: there is no network interface 'nosuch' here; see: ip link"

    def test_ports_and_interfaces_given_twice_are_named(self) -> None:
        with pytest.raises(InterfaceError, match="port 1 is given twice"):
            check_ports([PortSpec(1, "a", 1), PortSpec(1, "b", 1)])
        with pytest.raises(InterfaceError, match="interface a is given to two ports"):
            check_ports([PortSpec(1, "a", 1), PortSpec(2, "a", 1)])
        with pytest.raises(InterfaceError, match=r"not in 0\.\.510"):
            check_ports([PortSpec(511, "a", 1)])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("-i", "511@lo"), "is not PORT@INTERFACE"),
            (("-i", "1@"), "is not PORT@INTERFACE"),
            (("-i", "1@lo@fast"), "is not a rate"),
            (("-i", "1@lo", "--rate", "0"), "is not a rate"),
            (("-i", "1@lo", "--rate", "7999"), "is not a rate from 8k"),
            (("--queue-trace", "queues.csv"), "needs a port"),
            (("--device-config", "program.json"), "go together"),
            (("--empty", "--device-config", "program.json", "--p4info", "program.p4info.txtpb"), "exclude each other"),
        ],
    )
    def test_invalid_ports_and_rates_are_named(self, arguments: tuple[str, ...], words: str) -> None:
        done = finished("switch", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr

    @real_kernel
    @pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
    def test_missing_capabilities_are_named(self) -> None:
        done = subprocess.run(
            ["setpriv", "--bounding-set=-net_raw", *COMMAND, "switch", "--address", free_address(), "-i", "1@lo"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert "CAP_NET_RAW" in one_error(done)
