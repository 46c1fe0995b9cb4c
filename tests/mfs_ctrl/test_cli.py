"""``mfs switch`` and ``mfs ctrl`` as processes, and their messages when they cannot start."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from p4.v1 import p4runtime_pb2

from host_agent.ebpf.policy import PolicySource
from mfs_ctrl import cli, policies
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases, policy_rows
from mfs_ctrl.p4rt.entries import TableEntry
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.writer import EPOCHS
from p4src import artifact
from soft_switch.examples import dscp_queues
from tests.support.cli import finished, messages, one_error, started
from tests.support.controller import INDEX
from tests.support.p4runtime import CPU_PORT, Client, SetConfig, ethernet, features_config
from topologies.processes import free_address
from topologies.topology import tor


@pytest.fixture
def address() -> str:
    return free_address()


Mfs = Callable[..., tuple[int, str]]


@pytest.fixture
def mfs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mfs:
    """The command, in this process; returns its exit status and what it wrote to stderr."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mfs", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, " ".join(capsys.readouterr().err.split())

    return call


def test_help_names_the_commands() -> None:
    done = finished("--help")
    assert done.returncode == 0
    commands = done.stdout.partition("Commands:")[2].split("\n")
    assert {"agent", "demo", "switch", "ctrl", "sweep", "report"} <= {
        line.split()[0] for line in commands if line.strip()
    }
    assert "Traceback" not in done.stderr


def test_controller_gives_a_switch_its_entries_and_both_end_on_sigterm(address: str) -> None:
    with started("switch", "--address", address) as switch:
        assert address in switch.log_line()
        options = ("--servers", "2", "--nics", "2", "--rate", "10G", "--interval", "0.05")
        with started("ctrl", "--address", address, *options, "--policy-listen", "127.0.0.1:0") as controller:
            policy_url = controller.log_line().split()[-1].removesuffix("/policy")
            assert "policy mfs in force" in controller.log_line()
            # Host agents get the same rules.
            document = PolicySource(policy_url).fetch()
            assert document is not None
            assert document.rules == policies.mfs().rules
            # Another controller reads the entries while the first one continues.
            session = Session(address, election_id=1 << 64)
            session.connect()
            state = set(session.read_state(INDEX))
            session.close()
            status, out, log = controller.end()
            assert (status, out) == (0, "")
            assert messages(log)[-1] == "stopped; the switch keeps its entries"
        topology = tor(2, 2, 10_000_000_000)
        wanted = policy_rows(policies.mfs().rules, topology, SwitchParameters())
        assert set(base_entities(topology, SwitchParameters(), initial_biases(topology))) <= state
        rows = {entity for entity in state if isinstance(entity, TableEntry) and entity.table == "rmlq"}
        [epoch] = [epoch for epoch in EPOCHS if wanted.activation(epoch) in state]
        assert rows == set(wanted.entries(epoch))
        status, out, log = switch.end()
        assert (status, out, messages(log)) == (0, "", ["stopped"])


def test_another_program_is_loaded_onto_the_switch(address: str, tmp_path: Path) -> None:
    config, p4info = tmp_path / "own.json", tmp_path / "own.p4info.txtpb"
    config.write_bytes(artifact.load().config)
    p4info.write_text(artifact.load().p4info)
    with started("switch", "--empty", "--address", address) as switch:
        assert "no program yet" in switch.log_line()
        options = ("--servers", "2", "--nics", "1")
        program = ("--device-config", str(config), "--p4info", str(p4info))
        with started("ctrl", "--address", address, *options, *program) as controller:
            assert "policy mfs in force" in controller.log_line()
            session = Session(address, election_id=1 << 64)
            session.connect()
            state = set(session.read_state(INDEX))
            session.close()
    topology = tor(2, 1)
    assert set(base_entities(topology, SwitchParameters(), initial_biases(topology))) <= state


def test_a_switch_with_another_program_is_left_alone_and_a_check_says_what_would_change(address: str) -> None:
    folder = Path(dscp_queues.__file__).parent
    program = (f"--device-config={folder}/dscp_queues.json", f"--p4info={folder}/dscp_queues.p4info.txtpb")
    options = ("--address", address, "--servers", "2", "--nics", "1")
    with started("switch", "--address", address, *program) as switch:
        assert address in switch.log_line()
        assert "runs the program with the tables RouterIngress.route" in one_error(finished("ctrl", *options))
        checked = finished("ctrl", *options, "--dry-run")
        assert (checked.returncode, checked.stderr) == (0, "")
        lines = checked.stdout.splitlines()
        assert lines[0].startswith("program: the program with the tables RouterIngress.route")
        assert "only with --replace" in lines[0]
        assert any(line.startswith("insert rmlq[") for line in lines)
        assert lines[-1].endswith("0 to delete; nothing was written")
        # The switch has seen no client but readers, so the same checks hold again.
        assert finished("ctrl", *options, "--check").stdout == checked.stdout
        with started("ctrl", *options, "--replace") as controller:
            assert "loaded over the program with the tables RouterIngress.route" in controller.log_line()
            assert finished("ctrl", *options, "--check").stdout.splitlines()[-1].startswith("0 to insert, 0 to modify")


def test_half_a_program_is_refused(mfs: Mfs, tmp_path: Path) -> None:
    status, message = mfs("ctrl", "--device-config", "mfs.pb")
    assert status == 2
    assert "go together" in message
    status, message = mfs("ctrl", "--device-config", str(tmp_path / "none"), "--p4info", str(tmp_path / "none"))
    assert status == 1
    assert "program" in message
    assert "read" in message


def test_a_packet_to_the_cpu_port_reaches_the_controller(address: str) -> None:
    with started("switch", "--empty", "--address", address, "--cpu-port", str(CPU_PORT), "--device-id", "7") as switch:
        switch.log_line()
        client = Client(int(address.rpartition(":")[2]), device_id=7).primary()
        client.set_config(SetConfig.VERIFY_AND_COMMIT, features_config())
        packet = p4runtime_pb2.PacketOut(payload=ethernet())
        packet.metadata.add(metadata_id=1, value=CPU_PORT.to_bytes(2, "big"))
        packet.metadata.add(metadata_id=2, value=b"\0")
        client.send(packet=packet)
        # The program adds no packet_in header, so the first four bytes are taken for one.
        assert client.receive(timeout=60).packet.payload == ethernet()[4:]
        client.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_empty_switch_ends_on_a_signal(address: str, number: signal.Signals) -> None:
    with started("switch", "--empty", "--address", address) as switch:
        assert "no program yet" in switch.log_line()
        status, out, log = switch.end(number)
        assert (status, out, messages(log)) == (0, "", ["stopped"])


def test_a_switch_refuses_a_busy_port() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        assert f"cannot listen on {address}" in one_error(finished("switch", "--address", address))


def test_a_controller_reports_that_no_switch_answers(address: str) -> None:
    assert f"no P4Runtime server answers at {address}" in one_error(finished("ctrl", "--address", address))


OWN_POLICY = """
name = "reuse-last"
description = "collectives and P2D before reuse"
rules = [
    { stage = ["NONE", "COLLECTIVE", "P2D"], level = 6 },
    { stage = "KV_REUSE", level = 2 },
]
"""


def test_a_policy_from_a_file_is_put_into_force(address: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN_POLICY, "utf-8")
    with started("switch", "--address", address) as switch:
        assert address in switch.log_line()
        options = ("--servers", "2", "--nics", "1", "--policy", str(path))
        with started("ctrl", "--address", address, *options, "--policy-listen", "127.0.0.1:0") as controller:
            policy_url = controller.log_line().split()[-1].removesuffix("/policy")
            assert "policy reuse-last in force" in controller.log_line()
            document = PolicySource(policy_url).fetch()
            assert document is not None
            assert {rule.stage: rule.level for rule in document.rules} == {0: 6, 1: 2, 2: 6, 3: 6}


def test_a_wrong_policy_file_is_refused_with_file_and_key(mfs: Mfs, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN_POLICY.replace("KV_REUSE", "KV_RUESE"), "utf-8")
    status, message = mfs("ctrl", "--policy", str(path))
    assert status == 2
    assert f"{path}: rules.2.stage.1: there is no stage 'KV_RUESE'" in message


def test_an_unknown_policy_is_refused_with_a_list_of_policies(mfs: Mfs) -> None:
    status, message = mfs("ctrl", "--policy", "lifo")
    assert status == 2
    assert "there is no policy 'lifo'; the built-in ones are edf, edf-explicit, fifo" in message
    assert "static-reuse; a policy file ends in .toml" in message


@pytest.mark.parametrize("options", [("--servers", "2"), ("--nics", "2", "--rate", "20M"), ("--topology", "tor")])
def test_a_config_and_a_topology_at_once_are_refused(mfs: Mfs, options: tuple[str, ...]) -> None:
    status, message = mfs("ctrl", "--config", "switch.toml", *options)
    assert status == 2
    assert f"--config describes the whole switch: leave out {', '.join(options[::2])}, or --config" in message


def test_a_fabric_file_describes_all_that_options_would(mfs: Mfs) -> None:
    status, message = mfs("ctrl", "--fabric", "fabric.toml", "--policy", "fifo", "--address", "h:1", "--node", "leaf1")
    assert status == 2
    assert "--fabric describes all switches: leave out --address, --policy, --node, or --fabric" in message


def test_all_switches_of_a_topology_are_looked_for_at_consecutive_ports(address: str) -> None:
    host, _, port = address.rpartition(":")
    options = ("--topology", "leaf-spine", "--servers", "2", "--address", address)
    with started("ctrl", *options) as controller:
        told = {controller.log_line().partition(" within")[0] for _ in range(4)}
    assert told == {
        f"{name}: no P4Runtime server answers at {host}:{int(port) + number}"
        for number, name in enumerate(("leaf1", "leaf2", "spine1", "spine2"))
    }


def test_a_changed_config_is_put_into_force_and_a_wrong_one_is_not(address: str, tmp_path: Path) -> None:
    path = tmp_path / "switch.toml"

    def write(more: str) -> None:
        (tmp_path / "new").write_text(SWITCH + more, "utf-8")
        (tmp_path / "new").rename(path)

    write("")
    with started("switch", "--address", address) as switch:
        assert address in switch.log_line()
        with started("ctrl", "--address", address, "--config", str(path)) as controller:
            assert "policy mfs in force" in controller.log_line()
            write("[parameters]\nuntrusted_ports = [9]\n")
            assert f"{path}: line 10: [parameters], untrusted_ports[0]: no host or uplink" in controller.log_line()
            write("[parameters]\nuntrusted_ports = [1]\n")
            lines = {controller.log_line().partition(", ")[0].rstrip() for _ in range(2)}
            assert lines == {f"read {path} again", "changed: policy mfs"}


@pytest.mark.parametrize(("policy", "useless"), [("fifo", True), ("mfs", False)])
def test_a_slack_factor_without_effect_is_mentioned(mfs: Mfs, address: str, policy: str, useless: bool) -> None:
    _, message = mfs("ctrl", "--policy", policy, "--slack-factor", "5", "--address", address)
    assert ("--slack-factor has no effect: policy fifo has no threshold of slack" in message) == useless


SWITCH = """
[switch]
rate = "10G"

[[host]]
port = 1
mac = "02:00:00:00:00:01"
ipv4 = "10.0.0.1"
"""


def test_a_config_sets_how_the_policy_is_tuned(mfs: Mfs, tmp_path: Path, address: str) -> None:
    path = tmp_path / "switch.toml"

    def refused(tuner: str) -> str:
        path.write_text(SWITCH + tuner, "utf-8")
        status, message = mfs("ctrl", "--config", str(path), "--address", address)
        assert status == 1
        return message

    assert "no P4Runtime server answers" in refused("[tuner.mlu]\nlate_target = 0.1\n")
    assert f"{path}: [tuner]: policy mfs: mlu.late_target" in refused("[tuner.mlu]\nlate_target = 2.0\n")
    assert "policy mfs does not tune slo; it has mlu, tight_slack, load" in refused("[tuner.slo]\nstep = 1\n")
    assert "table" in refused("[tuner]\nstep = 1\n")


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("ctrl", "--servers", "0"),
        ("ctrl", "--servers", "201"),
        ("ctrl", "--nics", "9"),
        ("ctrl", "--rate", "nan"),
        ("ctrl", "--rate", "0"),
        ("ctrl", "--rate", "inf"),
        ("ctrl", "--interval", "-1"),
        ("ctrl", "--election-id", "0"),
        ("ctrl", "--election-id", str(1 << 128)),
        ("ctrl", "--device-id", str(1 << 64)),
        ("ctrl", "--policy", "lifo"),
        ("agent run", "--rate", "0"),
        ("agent run", "--mode", "0999"),
        ("agent run", "--ingress", "fast"),
        ("switch", "--device-id", "-1"),
        ("sweep", "--servers", "0"),
        ("sweep", "--requests", "2"),
        ("sweep", "--oversubscription", "0"),
        ("sweep", "--request-rate-per-gpu", "0"),
    ],
)
def test_invalid_options_are_named(mfs: Mfs, command: str, option: str, value: str) -> None:
    status, message = mfs(*command.split(), option, value)
    assert status == 2
    assert f"Invalid value for '{option}'" in message
    assert "Traceback" not in message


def test_an_extra_that_is_not_installed_is_named(mfs: Mfs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mfs_eval.demo", "host_agent.daemon.hooks", "mfs_ctrl.service"):
        monkeypatch.setitem(sys.modules, name, None)
    for arguments, extra in (
        (("demo",), "eval"),
        (("agent", "detach", "--interface", "lo"), "net"),
        (("ctrl",), "ctrl"),
    ):
        status, message = mfs(*arguments)
        assert status == 1
        assert f"pip install '.[{extra}]'" in message
