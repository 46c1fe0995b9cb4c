"""One vLLM engine in this process, driven by lines of JSON on stdin; runs in vLLM's Python environment.

Commands: ``{"op": "add", "id", "prompt", "max_tokens", "extra"}``, ``{"op": "abort", "id"}``, ``{"op": "quit"}``,
``{"op": "preemptions", "id"}``, which answers with their number in place of tokens, and ``{"op": "held", "id"}``, which
answers with the blocks in use, the open files, the threads and the resident memory in KiB.
Prints ``ready``, then ``{"id", "tokens", "params", "finished", "reason"}`` for each output; ``params`` are the
connector's for the decode engine. Arguments: a JSON object for ``LLM``.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def main() -> None:
    """Serve until ``quit`` or the end of stdin."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted = []
    preempt = Scheduler._preempt_request

    def counted(scheduler: Scheduler, request: object, *args: object, **options: object) -> None:
        preempted.append(request)
        preempt(scheduler, request, *args, **options)

    Scheduler._preempt_request = counted
    import torch

    if not torch.accelerator.is_available():
        # Mooncake's connector asks for it; on CPUs there is none.
        torch.accelerator.current_device_index = lambda: 0
    engine = LLM(**json.loads(sys.argv[1])).llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    commands: queue.Queue[dict] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put({"op": "quit"})

    threading.Thread(target=read, daemon=True).start()

    def say(value: object) -> None:
        print("> " + json.dumps(value), flush=True)

    say("ready")
    while True:
        while True:
            try:
                command = commands.get(timeout=None if not scheduler.has_requests() else 0.0001)
            except queue.Empty:
                break
            if command["op"] == "quit":
                engine.engine_core.shutdown()
                say("bye")
                return
            if command["op"] == "preemptions":
                say({"id": command["id"], "tokens": [len(preempted)], "finished": True, "reason": ""})
                continue
            if command["op"] == "held":
                pool = scheduler.kv_cache_manager.block_pool
                # One block is never given out.
                blocks = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
                status = Path("/proc/self/status").read_text()
                memory = int(status.partition("VmRSS:")[2].split()[0])
                held = [blocks, len(os.listdir("/proc/self/fd")), threading.active_count(), memory]
                say({"id": command["id"], "tokens": held, "finished": True, "reason": ""})
                continue
            if command["op"] == "abort":
                engine.abort_request([command["id"]])
                say({"id": command["id"], "tokens": [], "finished": True, "reason": "abort"})
                for _ in range(3):
                    engine.step()
                continue
            sampling = SamplingParams(
                max_tokens=command["max_tokens"],
                temperature=0,
                ignore_eos=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
                extra_args=command.get("extra") or None,
            )
            engine.add_request(command["id"], {"prompt_token_ids": command["prompt"]}, sampling)
        for output in engine.step():
            if output.finished:
                one = output.outputs[0]
                say(
                    {
                        "id": output.request_id,
                        "tokens": list(one.token_ids),
                        "params": output.kv_transfer_params,
                        "finished": True,
                        "reason": one.finish_reason,
                    }
                )
        time.sleep(0)


if __name__ == "__main__":
    main()
