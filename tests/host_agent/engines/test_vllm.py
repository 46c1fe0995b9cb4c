"""``MfsConnector`` in real vLLM engines on CPUs, with a small model of seeded weights.

Needs vLLM in a Python environment of its own: ``MFS_VLLM_PYTHON`` names its interpreter (``docs/guide/vllm.md``).
Tokens of a decode engine must equal those of a single engine, and must differ when it gets another prompt's KV. No test
looks at times.
"""

from __future__ import annotations

import ast
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from host_agent.engines.channel import Channel, dial, layer_frame
from host_agent.engines.errors import TransferError
from host_agent.engines.params import Address
from host_agent.engines.wire import Frame, Kind
from tests.host_agent.engines.test_transfers import Agent
from topologies.processes import free_port

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("MFS_VLLM_PYTHON", "")
START_S = 400.0
ANSWER_S = 120.0
RECEIVE_TIMEOUT_S = 15.0
BLOCK_TOKENS = 128
LAYERS = 4
BLOCK_BYTES = BLOCK_TOKENS * 1024
"""Of one layer: 4 heads of 64 dimensions, keys and values, two bytes each."""


def why_not() -> str:
    """Why vLLM cannot be run here; empty if it can."""
    if not PYTHON:
        return "MFS_VLLM_PYTHON is not set: the interpreter of an environment with vLLM"
    found = subprocess.run([PYTHON, "-c", "import vllm"], capture_output=True, text=True, check=False)
    return "" if found.returncode == 0 else f"{PYTHON} cannot import vllm: {found.stderr.strip().splitlines()[-1:]}"


pytestmark = pytest.mark.skipif(bool(reason := why_not()), reason=reason or "vLLM is there")


class Held(NamedTuple):
    """What an engine holds: blocks in use, open files, threads, resident memory in KiB."""

    blocks: int
    files: int
    threads: int
    memory: int


class Engine:
    """A vLLM engine in a child process, in a network namespace if one is given."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        name: str,
        role: str,
        options: dict[str, Any],
        namespace: str = "",
        variables: Mapping[str, str] | None = None,
        **llm: Any,
    ) -> None:
        self.log = folder / f"{name}.jsonl"
        self._errors = (folder / f"{name}.err").open("w")
        self._outputs: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._ready = self._over = False
        config = {
            "model": str(model),
            "dtype": "bfloat16",
            "max_model_len": 4096,
            "max_num_batched_tokens": 512,
            "enable_chunked_prefill": True,
            "max_num_seqs": 16,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "kv_transfer_config": {
                "kv_connector": "MfsConnector",
                "kv_connector_module_path": "host_agent.engines.vllm.connector",
                "kv_role": role,
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": {"log": str(self.log), **options},
            },
            **llm,
        }
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            **(variables or {}),
        }
        script = Path(__file__).with_name("engine_process.py")
        self.process = subprocess.Popen(
            [*(("ip", "netns", "exec", namespace) if namespace else ()), PYTHON, str(script), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("> "):
                value = json.loads(line[2:])
                with self._changed:
                    if isinstance(value, dict):
                        self._outputs[value["id"]] = value
                    else:
                        self._ready = True
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _wait(self, condition: Any, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._over, timeout_s)
            assert condition(), Path(self._errors.name).read_text()[-3000:]

    def wait_ready(self) -> Engine:
        self._wait(lambda: self._ready, START_S)
        return self

    def _send(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def add(
        self,
        name: str,
        prompt: list[int],
        mfs: dict[str, Any] | None = None,
        tokens: int = 6,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.ask(name, prompt, tokens, {**(extra or {}), **({"kv_transfer_params": {"mfs": mfs}} if mfs else {})})

    def ask(self, name: str, prompt: list[int], tokens: int, extra: Mapping[str, Any]) -> None:
        """Begin a request; ``extra`` are its ``extra_args``."""
        self._send({"op": "add", "id": name, "prompt": prompt, "max_tokens": tokens, "extra": extra})

    def preemptions(self, name: str) -> int:
        """How many requests it has preempted so far."""
        self._send({"op": "preemptions", "id": name})
        return self.tokens(name)[0]

    def held(self, name: str) -> Held:
        """What it holds now."""
        self._send({"op": "held", "id": name})
        return Held(*self.tokens(name))

    def outcome(self, name: str, timeout_s: float) -> tuple[list[int], str]:
        """The tokens of a request and why it ended, which is ``lost`` if the engine has died."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._outputs or self._over, timeout_s)
            if (output := self._outputs.get(name)) is not None:
                return list(output["tokens"]), str(output["reason"])
            return [], "lost" if self._over else "no answer"

    def abort(self, name: str) -> None:
        self._send({"op": "abort", "id": name})

    def tokens(self, name: str) -> list[int]:
        """The tokens of a request, once it has finished."""
        self._wait(lambda: name in self._outputs, ANSWER_S)
        return list(self._outputs[name]["tokens"])

    def params(self, name: str) -> dict[str, Any] | None:
        """What the connector has for the decode engine, once a request has finished."""
        self.tokens(name)
        found: dict[str, Any] | None = self._outputs[name]["params"]
        return found

    def records(self, role: str, **fields: Any) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [record for line in lines if (record := json.loads(line))["role"] == role]
        return [record for record in found if all(record[name] == value for name, value in fields.items())]

    def stop(self) -> None:
        if self.process.poll() is None:
            try:
                self._send({"op": "quit"})
                self.process.wait(20)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self._errors.close()


class Setup:
    """A prefill engine, a decode engine, a store and something that answers as an agent."""

    def __init__(self, folder: Path) -> None:
        model = folder / "model"
        maker = ROOT / "mfs_eval" / "serve" / "make_model.py"
        subprocess.run([PYTHON, str(maker), str(model), "llama-4x256"], check=True, capture_output=True)
        secret = folder / "secret"
        secret.write_text("between these engines\n")
        self.agent = Agent(folder / "agent.sock")
        self.to, self.at_store, self.at_engine = (f"127.0.0.1:{free_port()}" for _ in range(3))
        shared = {"secret_file": str(secret), "receive_timeout_s": RECEIVE_TIMEOUT_S}
        self.secret = b"between these engines"
        # Few blocks, so that requests are preempted; small steps, so that prompts are computed in chunks.
        options = {**shared, "agent": str(folder / "agent.sock"), "prefixes": self.at_engine}
        limits: dict[str, Any] = {"num_gpu_blocks_override": 16, "max_model_len": 1900}
        self.prefill = Engine(folder, model, "prefill", "kv_producer", options, **limits)
        self.decode = Engine(folder, model, "decode", "kv_consumer", {**shared, "agent": "", "listen": self.to})
        self.store = subprocess.Popen(
            [sys.executable, "-m", "host_agent.engines.store", "--listen", self.at_store, "--secret-file", str(secret)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        self._names = iter(range(1_000_000))
        self._random = random.Random(7)

    def name(self) -> str:
        return f"r{next(self._names)}"

    def prompt(self, tokens: int) -> list[int]:
        return [self._random.randrange(3, 1000) for _ in range(tokens)]

    def alone(self, prompt: list[int], tokens: int = 6) -> list[int]:
        """What a single engine answers."""
        name = self.name()
        self.decode.add(name, prompt, tokens=tokens)
        return self.decode.tokens(name)

    def both(
        self, prompt: list[int], prefilled: list[int] | None = None, extra: dict[str, Any] | None = None, **mfs: Any
    ) -> str:
        """Begin a request at both engines."""
        name = self.name()
        self.prefill.add(name, prefilled or prompt, {"transfer": name, "to": self.to, **mfs}, tokens=1, extra=extra)
        self.decode.add(name, prompt, {"transfer": name, "receive": True})
        return name

    def record(self, engine: Engine, role: str, name: str) -> dict[str, Any]:
        """The record of a transfer; it is written when the transfer's thread ends."""
        deadline = time.monotonic() + ANSWER_S
        while not (found := engine.records(role, transfer=name)):
            assert time.monotonic() < deadline, f"no record of {name}"
            time.sleep(0.02)
        return found[0]

    def close(self) -> None:
        self.store.terminate()
        self.store.wait()
        self.prefill.stop()
        self.decode.stop()


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    made = Setup(tmp_path_factory.mktemp("engines"))
    try:
        made.prefill.wait_ready()
        made.decode.wait_ready()
        yield made
    finally:
        made.close()


def test_decoded_tokens_are_those_of_a_single_engine_and_depend_on_the_kv(setup: Setup) -> None:
    # 700 tokens are computed in two chunks.
    prompt, other = setup.prompt(700), setup.prompt(700)
    expected = setup.alone(prompt)
    right, wrong = setup.both(prompt, deadline_ms=5000), setup.both(prompt, prefilled=other)
    assert setup.decode.tokens(right) == expected
    assert setup.decode.tokens(wrong) != expected
    blocks = -(-700 // BLOCK_TOKENS)
    for engine, role in ((setup.prefill, "push"), (setup.decode, "receive")):
        record = setup.record(engine, role, right)
        assert (record["payload_bytes"], record["error"]) == (blocks * BLOCK_BYTES * LAYERS, "")
    [opened] = [
        one for one in setup.agent.of("open") if one["batch"] == setup.record(setup.prefill, "push", right)["batch"]
    ]
    assert (opened["stage"], opened["total_bytes"], opened["target_layer"]) == (
        "P2D",
        blocks * BLOCK_BYTES * LAYERS,
        LAYERS,
    )
    layers = [one["layer"] for one in setup.agent.of("advance") if one["batch"] == opened["batch"]]
    assert layers == sorted(layers)
    assert layers[-1] == LAYERS
    assert setup.record(setup.prefill, "push", right)["stamped"]


@pytest.mark.parametrize(
    ("params", "extra", "objective_ms"),
    [({"deadline_ms": 700}, {"mfs_deadline_ms": 900}, 700), ({}, {"mfs_deadline_ms": 900}, 900), ({}, {}, 10_000)],
)
def test_a_deadline_counts_from_the_arrival_of_its_request(
    setup: Setup, params: dict[str, Any], extra: dict[str, Any], objective_ms: int
) -> None:
    before_ns = time.monotonic_ns()
    name = setup.both(setup.prompt(200), extra=extra, **params)
    setup.decode.tokens(name)
    deadline_ns = setup.record(setup.prefill, "push", name)["deadline_ns"]
    arrival_ns = deadline_ns - objective_ms * 1_000_000
    clocks_ns = 50_000_000  # the arrival is on another clock, which may be adjusted
    assert before_ns - clocks_ns <= arrival_ns <= time.monotonic_ns() + clocks_ns


def test_requests_of_one_step_share_a_batch_and_are_all_right(setup: Setup) -> None:
    prompts = [setup.prompt(100) for _ in range(4)]
    expected = [setup.alone(prompt) for prompt in prompts]
    # The first one keeps the engine busy, so that the others wait together.
    first = setup.both(setup.prompt(1000))
    names = [setup.both(prompt) for prompt in prompts]
    setup.decode.tokens(first)
    assert [setup.decode.tokens(name) for name in names] == expected
    batches = [setup.record(setup.prefill, "push", name)["batch"] for name in names]
    assert len(set(batches)) < len(batches)


@pytest.mark.parametrize("keeper", ["store", "engine"])
def test_a_prefix_is_fetched_layer_by_layer_from_a_store_or_an_engine(setup: Setup, keeper: str) -> None:
    at = setup.at_store if keeper == "store" else setup.at_engine
    prompt = setup.prompt(650)
    expected = setup.alone(prompt)
    assert setup.decode.tokens(setup.both(prompt, store=at)) == expected
    deadline = time.monotonic() + ANSWER_S
    while not setup.prefill.records("push", peer=at) and time.monotonic() < deadline:
        time.sleep(0.02)
    longer = prompt[:520] + setup.prompt(200)
    expected = setup.alone(longer)
    assert setup.decode.tokens(setup.both(longer, fetch=at)) == expected
    [fetched] = setup.prefill.records("fetch", peer=at)
    assert (fetched["payload_bytes"], fetched["error"]) == (520 // BLOCK_TOKENS * BLOCK_BYTES * LAYERS, "")


def test_preempted_prefills_are_pushed_once_and_right(setup: Setup) -> None:
    # 16 blocks hold two of these prompts and their first tokens, but not three.
    prompts = [setup.prompt(760) for _ in range(4)]
    expected = [setup.alone(prompt) for prompt in prompts]
    local = [setup.name() for _ in range(2)]
    for name in local:
        setup.prefill.add(name, setup.prompt(760), tokens=150)
    names = [setup.both(prompt) for prompt in prompts]
    assert [setup.decode.tokens(name) for name in names] == expected
    for name in local:
        setup.prefill.tokens(name)
    assert setup.prefill.preemptions(setup.name()) > 0


def test_aborts_leave_the_engines_serving(setup: Setup) -> None:
    prompts = [setup.prompt(900) for _ in range(6)]
    expected = [setup.alone(prompt) for prompt in prompts]
    names = [setup.both(prompt) for prompt in prompts]
    # The decode engine waits for this one; the prefill engine computes or has queued that one.
    setup.decode.abort(names[1])
    setup.prefill.abort(names[4])
    for number in (0, 2, 3, 4, 5):
        assert setup.decode.tokens(names[number]) == expected[number]
    again = setup.both(prompts[1])
    assert setup.decode.tokens(again) == expected[1]


def push_of_a_stranger(setup: Setup, name: str, layout: dict[str, Any]) -> Channel:
    """Begin a push of six blocks to the decode engine as a prefill engine would."""
    channel = dial(Address.parse(setup.to, "to"), setup.secret, ANSWER_S)
    channel.send(Frame(Kind.BEGIN, {"transfer": name, "blocks": 6, "layout": layout}))
    return channel


def test_a_request_whose_peer_dies_in_the_middle_is_computed_again(setup: Setup) -> None:
    prompt = setup.prompt(700)
    expected = setup.alone(prompt)
    model = f"{setup.prefill.log.parent / 'model'}@"
    layout: dict[str, Any] = {"model": model, "layers": LAYERS, "block_tokens": BLOCK_TOKENS, "rank": 0, "ranks": 1}
    layout |= {"block_bytes": BLOCK_BYTES, "dtype": "torch.bfloat16"}
    refused, broken = setup.name(), setup.name()
    # A peer of another layout is refused, and told what differs: the shape.
    setup.decode.add(refused, prompt, {"transfer": refused, "receive": True})
    with pytest.raises(TransferError, match="the KV caches differ: shape") as caught:
        push_of_a_stranger(setup, refused, layout).receive(Kind.ACCEPT)
    assert setup.decode.tokens(refused) == expected
    shape = ast.literal_eval(str(caught.value).partition(" instead of ")[2])
    # With the right one it is accepted. It sends two layers of nonsense, half of the third, and dies.
    setup.decode.add(broken, prompt, {"transfer": broken, "receive": True})
    channel = push_of_a_stranger(setup, broken, {**layout, "shape": shape})
    channel.receive(Kind.ACCEPT)
    for layer in range(2):
        channel.send(layer_frame(layer, 0, 6, 6 * BLOCK_BYTES), [bytes(6 * BLOCK_BYTES)])
    channel.socket.sendall(layer_frame(2, 0, 6, 6 * BLOCK_BYTES).pack() + bytes(3 * BLOCK_BYTES))
    channel.close()
    assert setup.decode.tokens(broken) == expected
    assert setup.record(setup.decode, "receive", broken)["error"]


def test_an_engine_that_is_killed_costs_its_requests_time_and_not_their_answers(setup: Setup) -> None:
    prompts = [setup.prompt(1500) for _ in range(3)]
    expected = [setup.alone(prompt) for prompt in prompts]
    names = [setup.both(prompt) for prompt in prompts]
    setup.prefill.process.send_signal(signal.SIGKILL)
    assert [setup.decode.tokens(name) for name in names] == expected
    # It serves on.
    prompt = setup.prompt(300)
    assert setup.alone(prompt) == setup.alone(prompt)
