"""Many requests through real engines, with random aborts and kills of both engines, the store and the agent.

``MFS_SOAK=200 MFS_VLLM_PYTHON=... pytest -s tests/host_agent/engines/test_soak.py`` plays that many requests; without
the variable it is skipped. Every request must be answered with a single engine's tokens, or fail with a reason: its
client has aborted it, or the decode engine that it was at was killed. Then nothing may be left: blocks, files, threads,
flows.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from host_agent import AgentGoneError
from tests.host_agent.engines.test_vllm import PYTHON, ROOT, Engine, why_not
from tests.support.agent import Agent, Host, linked
from tests.support.controller import eventually
from topologies.processes import Process

REQUESTS = int(os.environ.get("MFS_SOAK", "0"))
AT_ONCE = 4
ANSWER_S = 300.0
RECEIVE_TIMEOUT_S = 10.0
PROMPTS = 8
KV_PORT, STORE_PORT = 7100, 7200
MEMORY_KIB = 300_000
"""Resident memory that an engine may gain: caches of the allocator and of the tokenizer."""

pytestmark = [
    pytest.mark.skipif(not REQUESTS, reason="MFS_SOAK is not set: the number of requests"),
    pytest.mark.skipif(bool(reason := why_not()), reason=reason or "vLLM is there"),
]


class Rack:
    """Engines, a store and an agent in one network namespace; each can be killed and started again."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        (folder / "secret").write_text("between these engines\n")
        self.model = folder / "model"
        maker = ROOT / "mfs_eval" / "serve" / "make_model.py"
        subprocess.run([PYTHON, str(maker), str(self.model), "llama-4x256"], check=True, capture_output=True)
        self.agent_socket = folder / f"{host.name}.sock"
        self.agent = Agent(host, folder, lives_s=86_400)
        self.store = self._store()
        self.prefill, self.decode = self._engine("kv_producer"), self._engine("kv_consumer")
        self.prefill.wait_ready()
        self.decode.wait_ready()

    def _engine(self, role: str) -> Engine:
        options: dict[str, Any] = {
            "secret_file": str(self.folder / "secret"),
            "agent": str(self.agent_socket),
            "receive_timeout_s": RECEIVE_TIMEOUT_S,
        }
        if role == "kv_consumer":
            options["listen"] = f"127.0.0.1:{KV_PORT}"
        return Engine(self.folder, self.model, role, role, options, namespace=self.host.name)

    def _store(self) -> Process:
        command = [sys.executable, "-m", "host_agent.engines.store", "--listen", f"127.0.0.1:{STORE_PORT}"]
        command += ["--agent", str(self.agent_socket), "--secret-file", str(self.folder / "secret")]
        store = Process(command, lambda out: "serving prefixes" in out, self.host.name)
        return store.wait_ready()

    def kill(self, what: str) -> None:
        """Kill one part, and start it again."""
        if what == "agent":
            self.agent.kill()
            self.agent = Agent(self.host, self.folder, "--grace", "1", lives_s=86_400)
        elif what == "store":
            self.store.kill()
            self.store = self._store()
        elif what == "prefill":
            self.prefill.process.send_signal(signal.SIGKILL)
            self.prefill.process.wait()
            self.prefill = self._engine("kv_producer").wait_ready()
        else:
            self.decode.process.send_signal(signal.SIGKILL)
            self.decode.process.wait()
            self.decode = self._engine("kv_consumer").wait_ready()

    def flows(self) -> int:
        try:
            with self.agent.client() as client:
                return len(client.status()["flows"])
        except AgentGoneError:
            return -1

    def close(self) -> None:
        self.prefill.stop()
        self.decode.stop()
        self.store.stop()
        self.agent.end()


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with ExitStack() as stack:
        hosts = stack.enter_context(linked())
        made = Rack(hosts[0], tmp_path)
        stack.callback(made.close)
        yield made


def test_requests_survive_aborts_and_kills_and_leave_nothing(rack: Rack) -> None:
    chosen = random.Random(18)
    prompts = [[chosen.randrange(3, 1000) for _ in range(chosen.randrange(150, 900))] for _ in range(PROMPTS)]
    expected = []
    for number, prompt in enumerate(prompts):
        rack.decode.ask(f"alone{number}", prompt, 6, {})
        expected.append(rack.decode.tokens(f"alone{number}"))
    moments = sorted(chosen.sample(range(REQUESTS // 8, REQUESTS), 4))
    kills = dict(zip(moments, ("store", "agent", "prefill", "decode"), strict=True))
    outcomes: Counter[str] = Counter()
    running: list[tuple[str, int, Engine, str]] = []
    before = None
    began_s = time.monotonic()

    def finish() -> None:
        name, number, decode, aborted = running.pop(0)
        tokens, reason = decode.outcome(name, ANSWER_S)
        if reason == "length":
            assert tokens == expected[number], f"{name} has other tokens than a single engine"
            outcomes["right"] += 1
        else:
            assert (reason, aborted) == ("abort", "decode") or (reason == "lost" and decode is not rack.decode), (
                f"{name} ended with {reason!r}"
            )
            outcomes[reason] += 1

    for count in range(REQUESTS):
        name, number = f"r{count}", chosen.randrange(PROMPTS)
        mfs: dict[str, Any] = {"transfer": name, "to": f"127.0.0.1:{KV_PORT}", "deadline_ms": 5000}
        for use in ("store", "fetch"):
            if chosen.random() < 0.4:
                mfs[use] = f"127.0.0.1:{STORE_PORT}"
        rack.prefill.add(name, prompts[number], mfs, tokens=1)
        rack.decode.add(name, prompts[number], {"transfer": name, "receive": True})
        aborted = chosen.choices(["", "prefill", "decode"], [8, 1, 1])[0]
        if aborted:
            time.sleep(chosen.random() * 0.2)
            {"prefill": rack.prefill, "decode": rack.decode}[aborted].abort(name)
            outcomes[f"aborted at {aborted}"] += 1
        running.append((name, number, rack.decode, aborted))
        if count in kills:
            time.sleep(chosen.random() * 0.3)
            rack.kill(kills[count])
            outcomes[f"{kills[count]} killed"] += 1
            before = None
        if len(running) >= AT_ONCE:
            finish()
        if before is None and count > REQUESTS // 10:
            while running:
                finish()
            before = idle(rack, f"before{count}")
    while running:
        finish()
    after = idle(rack, "after")
    print(f"\n{REQUESTS} requests in {time.monotonic() - began_s:.0f} s: {dict(outcomes)}")
    assert before is not None
    for engine, then, now in zip(("prefill", "decode"), before, after, strict=True):
        print(f"{engine}: {then} then, {now} now")
        assert now.blocks == 0
        assert now.files <= then.files + AT_ONCE
        assert now.threads <= then.threads + AT_ONCE
        assert now.memory <= then.memory + MEMORY_KIB
    assert outcomes["right"] + outcomes["abort"] + outcomes["lost"] == REQUESTS


def idle(rack: Rack, name: str) -> list[Any]:
    """What both engines hold, once no request is under way and the agent has no flow."""
    names = (f"{name}-{number}" for number in range(10_000))
    for engine in (rack.prefill, rack.decode):
        eventually(lambda engine=engine: engine.held(next(names)).blocks == 0, ANSWER_S)
    eventually(lambda: rack.flows() == 0, ANSWER_S)
    return [engine.held(next(names)) for engine in (rack.prefill, rack.decode)]
