"""vLLM's own connectors with stamped connections, in real engines in two network namespaces, with a real agent.

Needs vLLM as ``test_vllm.py`` does, root, and NIXL or Mooncake in vLLM's environment. No test looks at times.
"""

from __future__ import annotations

import json
import random
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.host_agent.engines.test_vllm import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    LAYERS,
    PYTHON,
    ROOT,
    START_S,
    Engine,
    why_not,
)
from tests.support.agent import INTERFACE, Agent, Host, linked, running
from tests.support.controller import eventually

TOKENS = 700
KV_BYTES = -(-TOKENS // BLOCK_TOKENS) * BLOCK_BYTES * LAYERS
BOOTSTRAP_PORT = 8998

pytestmark = pytest.mark.skipif(bool(reason := why_not()), reason=reason or "vLLM is there")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "model"
    maker = ROOT / "mfs_eval" / "serve" / "make_model.py"
    subprocess.run([PYTHON, str(maker), str(made), "llama-4x256"], check=True, capture_output=True)
    return made


class Pair:
    """A prefill engine, a decode engine on another host, and the agent of the prefill engine's host."""

    def __init__(self, hosts: tuple[Host, Host], agent: Agent, prefill: Engine, decode: Engine) -> None:
        self.hosts, self.agent, self.prefill, self.decode = hosts, agent, prefill, decode
        self._random = random.Random(11)

    def prompt(self) -> list[int]:
        return [self._random.randrange(3, 1000) for _ in range(TOKENS)]

    def alone(self, name: str, prompt: list[int]) -> list[int]:
        self.decode.ask(name, prompt, 6, {})
        return self.decode.tokens(name)

    def stamped_bytes(self) -> int:
        """What has left the prefill engine's host with a stamp, headers included."""
        with self.agent.client() as client:
            return sum(client.status()["counters"]["level_bytes"])

    def flows(self) -> list[dict[str, Any]]:
        with self.agent.client() as client:
            return list(client.status()["flows"])

    def through_nixl(self, name: str, prompt: list[int], prefilled: list[int], **mfs: Any) -> list[int]:
        asked = {"do_remote_decode": True, "do_remote_prefill": False, "mfs": {"to": self.hosts[1].address, **mfs}}
        self.prefill.ask(name, prefilled, 1, {"kv_transfer_params": asked})
        self.decode.ask(name, prompt, 6, {"kv_transfer_params": self.prefill.params(name)})
        return self.decode.tokens(name)

    def through_mooncake(self, name: str, prompt: list[int], prefilled: list[int], **mfs: Any) -> list[int]:
        bootstrap = f"http://{self.hosts[0].address}:{BOOTSTRAP_PORT}"
        answer = self.hosts[0].inside(lambda: urllib.request.urlopen(f"{bootstrap}/query", timeout=60).read())
        asked: dict[str, Any] = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": name}
        self.prefill.ask(
            name, prefilled, 1, {"kv_transfer_params": {**asked, "mfs": {"to": self.hosts[1].address, **mfs}}}
        )
        self.prefill.tokens(name)
        there = {"do_remote_decode": False, "do_remote_prefill": True, "transfer_id": name}
        there |= {"remote_bootstrap_addr": bootstrap, "remote_engine_id": json.loads(answer)["0"]["engine_id"]}
        self.decode.ask(name, prompt, 6, {"kv_transfer_params": there})
        return self.decode.tokens(name)


@contextmanager
def pair(hosts: tuple[Host, Host], folder: Path, model: Path, name: str, module: str) -> Iterator[Pair]:
    found = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{PYTHON} cannot import {module}: {found.stderr.strip().splitlines()[-1]}")
    with ExitStack() as stack:
        engines = []
        for host, role in zip(hosts, ("kv_producer", "kv_consumer"), strict=True):
            transfer = {
                "kv_connector": name,
                "kv_connector_module_path": f"host_agent.engines.vllm.{'nixl' if 'Nixl' in name else 'mooncake'}",
                "kv_role": role,
                "kv_load_failure_policy": "fail",
                "kv_connector_extra_config": {
                    "mfs": {"agent": str(folder / f"{hosts[0].name}.sock")},
                    "mooncake_protocol": "tcp",
                },
            }
            variables = {
                "UCX_TLS": "tcp",
                "UCX_NET_DEVICES": INTERFACE,
                "VLLM_HOST_IP": host.address,
                "VLLM_NIXL_SIDE_CHANNEL_HOST": host.address,
                "VLLM_MOONCAKE_BOOTSTRAP_PORT": str(BOOTSTRAP_PORT),
            }
            made = Engine(
                folder, model, role, role, {}, namespace=host.name, variables=variables, kv_transfer_config=transfer
            )
            stack.callback(made.stop)
            engines.append(made)
        for engine in engines:
            engine.wait_ready()
        agent, _ = [stack.enter_context(running(host, folder, "--rate", "20M", lives_s=START_S)) for host in hosts]
        yield Pair(hosts, agent, *engines)


@pytest.mark.parametrize(
    ("connector", "module", "how"),
    [
        ("MfsNixlPull", "nixl._api", Pair.through_nixl),
        ("MfsNixlPush", "nixl._api", Pair.through_nixl),
        ("MfsMooncake", "mooncake.engine", Pair.through_mooncake),
    ],
)
def test_kv_arrives_over_stamped_connections_and_tokens_depend_on_it(
    hosts: tuple[Host, Host], tmp_path: Path, model: Path, connector: str, module: str, how: Any
) -> None:
    with pair(hosts, tmp_path, model, connector, module) as engines:
        prompt, other = engines.prompt(), engines.prompt()
        expected = engines.alone("alone", prompt)
        # The first transfer makes the connections.
        assert how(engines, "first", prompt, prompt, deadline_ms=60_000) == expected
        assert how(engines, "wrong", prompt, other) != expected
        before = engines.stamped_bytes()
        assert how(engines, "second", prompt, prompt, deadline_ms=60_000) == expected
        # The flows open beside the transfer, so that its first packets may go without a stamp.
        assert engines.stamped_bytes() - before > KV_BYTES // 2
        # The engine learns in a step that the KV is sent.
        engines.prefill.ask("next", prompt[:10], 40, {})
        engines.prefill.tokens("next")
        eventually(lambda: engines.flows() == [])
