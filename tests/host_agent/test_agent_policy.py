"""The policy as a document, its transfer from the controller to an agent, and its encoding for the kernel."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from host_agent import http_endpoint
from host_agent.ebpf import build, layout
from host_agent.ebpf.errors import ObjectError, PolicyError
from host_agent.ebpf.object import LAYOUT, OBJECT, load, parse
from host_agent.ebpf.policy import PolicySource
from host_agent.http_endpoint import EndpointError
from host_agent.protocol.level import LevelRule
from host_agent.protocol.policy_document import DocumentError, PolicyDocument
from host_agent.protocol.stamp import Stage
from mfs_ctrl import Policy, policies
from mfs_ctrl.policy_server import PolicyServer
from tests.support.controller import eventually


@pytest.mark.parametrize("chosen", [policies.mfs(), policies.static(), policies.fifo(), policies.edf([40, 80, 120])])
def test_a_policy_survives_json(chosen: Policy) -> None:
    document = PolicyDocument(chosen.name, chosen.rules, {1: 53, 2: 60})
    assert PolicyDocument.from_json(document.to_json()) == document


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[]", "list of rules"),
        ('{"rules": [{"stage": 3}]}', "rule 0"),
        ('{"rules": [{"stage": 9, "level": 1}]}', "unknown stage"),
        ('{"rules": [{"stage": 3, "level": 8}]}', "level 8"),
        ('{"rules": [{"stage": 3, "level": 1, "rli": [3, 2]}]}', "rli"),
        ('{"rules": [{"stage": 3, "level": 1, "color": [1, 2]}]}', "no other fields"),
        ('{"rules": [], "biases": {"1": 512}}', "0..511"),
    ],
)
def test_an_invalid_policy_document_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        PolicyDocument.from_json(text)


def test_an_agent_fetches_a_policy_once_and_learns_of_changes() -> None:
    with PolicyServer("127.0.0.1:0") as server:
        source = PolicySource(server.url)
        with pytest.raises(PolicyError, match="503"):
            source.fetch()
        server.publish(policies.mfs(), {1: 53})
        assert source.fetch() == PolicyDocument("mfs", policies.mfs().rules, {1: 53})
        assert source.fetch() is None
        server.publish(policies.static(), {1: 53})
        assert source.fetch() == PolicyDocument("static", policies.static().rules, {1: 53})


def test_the_saved_policy_is_available_without_a_controller(tmp_path: Path) -> None:
    document = PolicyDocument("mfs", policies.mfs().rules)
    source = PolicySource("http://127.0.0.1:1", tmp_path / "kept" / "policy.json")
    with pytest.raises(PolicyError, match="cannot be reached"):
        source.fetch()
    assert source.load() is None
    source.save(document)
    assert source.load() == document
    (tmp_path / "kept" / "policy.json").write_text("{", "utf-8")
    assert source.load() is None


def test_the_policy_is_served_over_ipv6_and_by_head_and_nothing_can_be_posted() -> None:
    with PolicyServer("[::1]:0") as server:
        assert server.url.startswith("http://[::1]:")
        server.publish(policies.mfs(), {})
        assert PolicySource(server.url).fetch() == PolicyDocument("mfs", policies.mfs().rules)
        head = urllib.request.Request(f"{server.url}/policy", method="HEAD")
        with urllib.request.urlopen(head) as answer:
            assert int(answer.headers["Content-Length"]) > 0
            assert answer.read() == b""
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(f"{server.url}/policy", b"{}")


def test_clients_that_hang_up_or_say_nothing_keep_no_agent_waiting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_endpoint, "CONNECTION_S", 0.2)
    with PolicyServer("127.0.0.1:0") as server, contextlib.ExitStack() as clients:
        server.publish(policies.mfs(), {})
        address = "127.0.0.1", int(server.url.rpartition(":")[2])
        for _ in range(20):
            gone = socket.create_connection(address)
            gone.sendall(b"GET /policy HTTP/1.0\r\n\r\n")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        silent = [clients.enter_context(socket.create_connection(address)) for _ in range(http_endpoint.CONNECTIONS)]
        slow = silent[0]
        # As many as are served at all: the slow ones are disconnected, and an agent that asks again is answered.
        eventually(lambda: _fetched(server.url))
        slow.settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert slow.recv(1) == b""
    assert capsys.readouterr() == ("", "")


def _fetched(url: str) -> bool:
    try:
        return PolicySource(url).fetch() is not None
    except PolicyError:
        return False


def test_invalid_addresses_of_the_controller_are_refused() -> None:
    with pytest.raises(EndpointError, match="HOST:PORT"):
        PolicyServer("nowhere")
    with pytest.raises(PolicyError, match="http://"):
        PolicySource("controller:80")


def test_a_policy_that_exceeds_the_kernels_limits_is_refused() -> None:
    rule = LevelRule(Stage.P2D, 3)
    assert len(layout.encode_policy([rule] * layout.RULES_MAX, 0)) == layout.POLICY.size
    with pytest.raises(PolicyError, match="64 at most"):
        layout.encode_policy([rule] * (layout.RULES_MAX + 1), 0)
    with pytest.raises(PolicyError, match="outside"):
        layout.encode_policy([LevelRule(Stage.P2D, 8)], 0)


def test_the_committed_object_belongs_to_its_source() -> None:
    assert LAYOUT.read_text("utf-8") == build.layout_header()
    assert load().programs.keys() == {"egress", "xdp_ingress", "tc_ingress", "tc_strip", "sock_ops"}


def test_the_build_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--help"]) == 0
    assert "Usage: python -m host_agent.ebpf.build" in capsys.readouterr().out
    assert build.main(["all"]) == 2
    assert "unexpected argument 'all'" in capsys.readouterr().err


def test_a_stale_or_broken_object_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stale = tmp_path / "manifest.json"
    stale.write_text(json.dumps({"sources": {}}), "utf-8")
    monkeypatch.setattr("host_agent.ebpf.object.MANIFEST", stale)
    with pytest.raises(ObjectError, match=r"older than its source; .*run `python -m host_agent\.ebpf\.build`"):
        load()
    for data in (b"", b"\x7fELF", OBJECT.read_bytes()[:400]):
        with pytest.raises(ObjectError, match="broken"):
            parse(data)
