"""``mfs serve``: vLLM engines in network namespaces around the embedded switch, with host agents and a controller.

Two prefill engines, a decode engine and a prefix store have a server each, with one interface. Requests reach the
engines' APIs over management links, which the switch does not see; KV crosses the switch. The engines stay up over all
runs; only the controller, with its policy, is exchanged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_agent.client import AgentClient
from mfs_ctrl.policy import load
from mfs_eval.errors import EvaluationError
from mfs_eval.live.flow_log import FlowLog
from mfs_eval.live.live import LiveRack, LiveSettings, adopt, live_rack
from mfs_eval.serve.engines import CONNECTOR_PORT, Engine, EngineSettings, completion, make_model
from mfs_eval.serve.router import ANSWER_S, Answer, Router
from mfs_eval.serve.workload import BLOCK_TOKENS, Prompt, block
from mfs_eval.serving.cluster import Cluster
from topologies.processes import Process

_LOG = logging.getLogger(__name__)

PREFIX = "mfsserve"
PREFILL = (0, 1)
DECODE, STORE = 2, 3
CLUSTER = Cluster(4, 1, 1, units=((0,), (1,)), decode_servers=(DECODE,))
STORE_PORT = 7200
SLACK_FACTOR = 10.0
"""The policies' thresholds fit objectives of tenths of seconds; here they are seconds."""
SETTLE_S = 20.0
CHECKED = 2
"""Requests of each run whose tokens are compared with those of a single engine."""
OUTPUT_TOKENS = 4
OBJECTIVE_FACTOR = 3.0
CALIBRATION = (2 * BLOCK_TOKENS, 16 * BLOCK_TOKENS)
CALIBRATION_RUNS = 3


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What is set up.

    Attributes:
        python: interpreter of the environment with vLLM.
        models: folder of models.
        model: name of the model, see :mod:`mfs_eval.serve.make_model`.
        rate_bps: rate of each link.
        store: whether prefixes are kept in the store and fetched from it.
        hold: whether host agents hold flows at their source.
    """

    python: Path
    models: Path
    model: str
    rate_bps: int
    store: bool
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Stamped:
    """What the agents of all servers counted during a run.

    Attributes:
        packets: stamped.
        level_bytes: bytes by level.
    """

    packets: int
    level_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """One run.

    Attributes:
        policy: name of the policy.
        seed: of the workload.
        answers: outcomes of the requests.
        transfers: the connectors' records of the run, by their role.
        stamped: from the agents.
        checked: requests whose tokens were compared with a single engine's, and were equal.
    """

    policy: str
    seed: int
    answers: Sequence[Answer]
    transfers: Mapping[str, Sequence[Mapping[str, Any]]]
    stamped: Stamped
    checked: int


@dataclass(frozen=True, slots=True)
class ServingRack:
    """A rack with engines that answer."""

    rack: LiveRack
    engines: Sequence[Engine]
    agents: Mapping[int, AgentClient]
    sockets: Mapping[int, Path]
    store: str | None

    @property
    def decode(self) -> Engine:
        """The decode engine, the last one."""
        return self.engines[-1]

    def router(self, label: str) -> Router:
        """Return a router whose transfers' names begin with ``label``."""
        addresses = [engine.settings.address for engine in self.engines]
        assert self.decode.settings.listen is not None
        return Router(addresses[:-1], addresses[-1], self.decode.settings.listen, self.store, label)

    def stamped(self) -> Stamped:
        """Return the agents' counters, summed up."""
        counters = [agent.status()["counters"] for agent in self.agents.values()]
        levels = [sum(values) for values in zip(*(each["level_bytes"] for each in counters), strict=True)]
        return Stamped(sum(each["stamped"] for each in counters), tuple(levels))

    def alone(self, tokens: tuple[int, ...], count: int, name: str) -> tuple[int, ...]:
        """Return the tokens that the decode engine generates by itself."""
        found: list[int] = []
        with completion(self.decode.settings.address, name, tokens, count, {}, ANSWER_S) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:]).get("choices", ()):
                        found += choice.get("token_ids") or ()
        return tuple(found)

    def calibrated(self) -> dict[int, float]:
        """Return the time to first token of requests that are alone, in milliseconds by length."""
        found: dict[int, float] = {}
        for length in CALIBRATION:
            label = f"alone-{secrets.token_hex(3)}"
            prompts = [
                Prompt(f"{length}-{number}", 0.0, block((label, number), length), 60_000.0, "alone", number % 2)
                for number in range(CALIBRATION_RUNS + 2)
            ]
            answers = [self.router(label).play([prompt], 1)[0] for prompt in prompts]
            times = [answer.ttft_ms for answer in answers[2:] if answer.ttft_ms is not None]
            if not times:
                raise EvaluationError(f"no request is answered: {answers[-1].error}")
            found[length] = statistics.median(times)
            _LOG.info("alone, %d tokens: TTFT %.0f ms", length, found[length])
        return found


@contextlib.contextmanager
def serving_rack(settings: ServeSettings, policy: str, work: Path, prefix: str) -> Iterator[ServingRack]:
    """Set everything up, with ``policy`` in force, in the folder ``work``. For the main thread.

    Raises:
        EvaluationError: an engine or the store does not start.
        TopologyError: this is not root, or something cannot be set up.
    """
    model = make_model(settings.python, settings.models, settings.model)
    live = LiveSettings(settings.rate_bps, 1.0, cluster=CLUSTER, hold=settings.hold)
    with contextlib.ExitStack() as stack:
        rack = stack.enter_context(live_rack(live, prefix))
        secret = rack.folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32) + "\n")
        controller = rack.controlled(policy, "--slack-factor", f"{SLACK_FACTOR:g}")
        stack.callback(controller.stop)
        controller.wait_ready()
        stack.enter_context(rack.stamping())
        namespaces, hosts = rack.realised.namespaces, {host.server: host for host in rack.topology.hosts}
        sockets = {server: rack.socket(host.id) for server, host in hosts.items()}
        agents = {server: stack.enter_context(AgentClient(socket)) for server, socket in sockets.items()}
        store = None
        if settings.store:
            store = f"{hosts[STORE].ipv4}:{STORE_PORT}"
            command = [sys.executable, "-m", "host_agent.engines.store", "--listen", store]
            command += ["--agent", str(rack.socket(hosts[STORE].id)), "--secret-file", str(secret)]
            (work / "store.jsonl").unlink(missing_ok=True)
            command += ["--log", str(work / "store.jsonl")]
            stack.enter_context(Process(command, lambda out: "serving prefixes" in out, namespaces[STORE]))
        engines = []
        for server in (*PREFILL, DECODE):
            decodes = server == DECODE
            near = rack.realised.management[server]
            each = EngineSettings(
                name=f"{'decode' if decodes else 'prefill'}{server + 1}",
                role="kv_consumer" if decodes else "kv_producer",
                namespace=namespaces[server],
                address=".".join([*near.split(".")[:3], str(int(near.split(".")[3]) + 1)]),
                agent=rack.socket(hosts[server].id),
                listen=f"{hosts[server].ipv4}:{CONNECTOR_PORT}" if decodes else None,
            )
            engines.append(Engine(settings.python, model, each, work, secret))
            stack.callback(engines[-1].stop)
        for engine in engines:
            engine.wait_ready()
            _LOG.info("%s answers", engine.settings.name)
        # From here on each run has its own.
        controller.stop()
        yield ServingRack(rack, engines, agents, sockets, store)


def run_serve(
    serving: ServingRack,
    policies: Sequence[str],
    seeds: Sequence[int],
    flow_log: Path,
    workload: Callable[[int], Sequence[Prompt]],
    output_tokens: int = OUTPUT_TOKENS,
) -> Generator[Served, None, None]:
    """Serve each workload under each policy; the order of the policies alternates from seed to seed.

    ``flow_log``: file for the levels of the flows.

    Raises:
        EvaluationError: tokens differ from a single engine's, or the agents do not get a policy.
    """
    for number, seed in enumerate(seeds):
        prompts = workload(seed)
        for policy in policies if number % 2 == 0 else policies[::-1]:
            with serving.rack.controlled(policy, "--slack-factor", f"{SLACK_FACTOR:g}"):
                adopt(serving.agents, policy)
                with FlowLog(serving.sockets, flow_log):
                    served = _run(serving, load(policy).name, seed, prompts, output_tokens)
                yield served


def _run(serving: ServingRack, policy: str, seed: int, prompts: Sequence[Prompt], output_tokens: int) -> Served:
    label = f"{policy}-{secrets.token_hex(3)}"
    before = serving.stamped()
    answers = serving.router(label).play(prompts, output_tokens)
    transfers = _transfers(serving, label, sum(not answer.error for answer in answers))
    after = serving.stamped()
    levels = tuple(now - then for now, then in zip(after.level_bytes, before.level_bytes, strict=True))
    stamped = Stamped(after.packets - before.packets, levels)
    checked = 0
    for answer in [answer for answer in answers if not answer.error][:CHECKED]:
        alone = serving.alone(answer.prompt.tokens, output_tokens, f"{answer.transfer}-alone")
        if alone != answer.tokens:
            raise EvaluationError(
                f"request {answer.transfer}: the tokens {answer.tokens} with transferred KV are not those of a single "
                f"engine, {alone}"
            )
        checked += 1
    return Served(policy, seed, answers, transfers, stamped, checked)


def _transfers(serving: ServingRack, label: str, expected: int) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records of the transfers whose requests' names contain ``label``, once they are all written."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        found: dict[str, list[Mapping[str, Any]]] = {"push": [], "receive": [], "fetch": []}
        for engine in serving.engines:
            for record in engine.records():
                if label in record["request"]:
                    found[record["role"]].append(record)
        if sum(bool(record["transfer"]) for record in found["push"]) >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
