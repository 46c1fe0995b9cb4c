"""A device under random requests.

    python -m tests.support.p4runtime_fuzz --seconds 300 --seed 1

sends requests of :mod:`tests.support.p4runtime_requests` to devices with programs of tests/p4, and prints counts of
requests and results. It ends with an error and the request if a device violates what :class:`Fuzzer` checks.
"""

from __future__ import annotations

import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from google.protobuf import text_format
from google.protobuf.message import Message
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2

from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.device import Device
from soft_switch.p4runtime.status import INTERNAL, OK, UNKNOWN, RequestError
from soft_switch.p4runtime.virtual_timer import VirtualTimer
from soft_switch.sim.events import VirtualClock
from soft_switch.switch import Switch
from tests.support.p4runtime import CPU_PORT, everything, program_config
from tests.support.p4runtime_requests import DEVICE_ID, Generator, changed_json

PROGRAMS = ("p4runtime_features", "copies", "variants")
PRIMARY = (1 << 64) - 1
SLOWEST_S = 20
"""A request that takes longer counts as a hang."""


class Broken(AssertionError):
    """A device violated a check on this request."""

    def __init__(self, what: str, request: Message) -> None:
        super().__init__(f"{what}:\n{text_format.MessageToString(request)[:4000]}")
        self.request = request


class Fuzzer:
    """A device under random requests.

    Each step sends a request and checks that only statuses of the specification occur (never INTERNAL, nor UNKNOWN for
    a single update) and that only RequestError is raised. It also checks that a failure changes no state, that packets
    still pass, and that no request takes long.

    Attributes:
        codes: number of results by (kind of request, code).
        watches_state: whether everything is read before and after each request.
    """

    def __init__(self, device_config: bytes, p4info: p4info_pb2.P4Info, rnd: random.Random) -> None:
        self.codes: Counter[tuple[str, int]] = Counter()
        self.watches_state = True
        self._rnd = rnd
        self._clock = VirtualClock()
        self._switch = Switch(cpu_port=CPU_PORT)
        for port in range(3):
            self._switch.add_port(port, 10**9)
        self.device = Device(self._switch, DEVICE_ID, self._now, self._now, backend_of_environment())
        VirtualTimer(self.device, self._clock)
        self._config = p4runtime_pb2.ForwardingPipelineConfig(p4info=p4info, p4_device_config=device_config)
        self._generator = Generator(p4info, rnd)
        self._streams: list[Any] = []
        self._start()

    def _now(self) -> int:
        return self._clock.now_ns

    def _start(self) -> None:
        self.device.load(self._config)
        self._primary = self.device.open_stream()
        request = p4runtime_pb2.StreamMessageRequest()
        request.arbitration.device_id = DEVICE_ID
        # No client can have a higher one.
        request.arbitration.election_id.high = request.arbitration.election_id.low = PRIMARY
        self.device.stream_request(self._primary, request)

    def step(self) -> None:
        """Do one thing: a write, a read, a message on a stream, or a packet."""
        actions = [self.write] * 12 + [self.read] * 4 + [self.stream] * 4 + [self.packet] * 4
        self._rnd.choice(actions)()

    def state(self) -> tuple[Any, ...]:
        """Everything that can be read, and the config."""
        if not self.watches_state:
            return ()
        request = p4runtime_pb2.ReadRequest(device_id=DEVICE_ID, entities=everything())
        responses, results = self.device.read(request)
        if any(results):
            raise Broken(f"a read of everything fails: {[str(error) for error in results if error]}", request)
        entities = [e.SerializeToString(deterministic=True) for response in responses for e in response.entities]
        config = self.device.get_config(p4runtime_pb2.GetForwardingPipelineConfigRequest(device_id=DEVICE_ID))
        return tuple(entities), config.config.cookie.cookie, self._switch.pipeline

    def _mutated(self, message: Any) -> Any:
        for _ in range(self._rnd.choice((0, 0, 1, 1, 2, 4))):
            self._generator.mutate(message)
        # As if sent by a client.
        return type(message).FromString(message.SerializeToString())

    def _call(self, what: str, request: Message, call: Callable[[], Any]) -> Any:
        """The result of the call, or its RequestError."""
        began = time.monotonic()
        try:
            result = call()
        except RequestError as error:
            self._check_code(what, request, error)
            result = error
        except Exception as error:
            raise Broken(f"{what} raised {error!r}", request) from error
        took_s = time.monotonic() - began
        if took_s > SLOWEST_S:
            raise Broken(f"{what} took {took_s:.0f} s", request)
        return result

    def _check_code(self, what: str, request: Message, error: RequestError) -> None:
        self.codes[what, error.code] += 1
        if error.code in (OK, UNKNOWN, INTERNAL) or not error.message:
            raise Broken(f"{what}: {error.code} {error.message!r}", request)

    def write(self) -> None:
        """Send a batch, mostly with the primary's id, sometimes with any field changed."""
        count = self._rnd.choice((1, 1, 1, 2, 5))
        request = p4runtime_pb2.WriteRequest(device_id=DEVICE_ID)
        request.election_id.high = request.election_id.low = PRIMARY
        request.updates.extend(self._mutated(self._generator.update()) for _ in range(count))
        request.atomicity = self._rnd.choice((0, 0, 1, 2))
        if self._rnd.random() < 0.1:
            self._generator.mutate(request)
        before = self.state()
        result = self._call("write", request, lambda: self.device.write(request))
        failed = isinstance(result, RequestError)
        if not failed:
            if len(result) != len(request.updates):
                raise Broken(f"{len(result)} results for {len(request.updates)} updates", request)
            for error in result:
                if error is None:
                    self.codes["update", OK] += 1
                else:
                    self._check_code("update", request, error)
            whole = request.atomicity != 0
            failed = all(result) and bool(result) if not whole else any(result)
        if failed and self.state() != before:
            raise Broken("a failed write changed the state", request)

    def read(self) -> None:
        """Read entities that may or may not exist."""
        entities = [self._mutated(self._generator.entity()) for _ in range(self._rnd.choice((1, 1, 3)))]
        request = p4runtime_pb2.ReadRequest(device_id=DEVICE_ID, entities=entities)
        if self._rnd.random() < 0.1:
            self._generator.mutate(request)
        before = self.state()
        result = self._call("read", request, lambda: self.device.read(request))
        if not isinstance(result, RequestError):
            for error in result[1]:
                if error is None:
                    self.codes["read", OK] += 1
                else:
                    self._check_code("read", request, error)
        if self.state() != before:
            raise Broken("a read changed the state", request)

    def stream(self) -> None:
        """Send a message on the primary's stream or on one of a few others, which are opened and closed."""
        rnd = self._rnd
        if len(self._streams) < 4:
            self._streams.append(self.device.open_stream())
        stream = rnd.choice([self._primary, *self._streams])
        request = self._mutated(self._generator.stream_request())
        if stream is self._primary and request.WhichOneof("update") == "arbitration":
            return
        result = self._call("stream", request, lambda: self.device.stream_request(stream, request))
        if isinstance(result, RequestError):
            if stream is self._primary:
                raise Broken(f"the primary's stream was ended: {result}", request)
            stream.close(result)
        if stream is not self._primary and (isinstance(result, RequestError) or rnd.random() < 0.2):
            self._streams.remove(stream)
            self.device.close_stream(stream)

    def packet(self) -> None:
        """Send a packet, and run the clock for a while."""
        rnd = self._rnd
        self._switch.receive(
            rnd.randrange(3), bytes([rnd.randrange(8), rnd.randrange(4)]) + rnd.randbytes(60), self._now()
        )
        for port in self._switch.ports:
            while self._switch.transmit(port, self._now()) is not None:
                pass
        self._clock.run(until_ns=self._now() + rnd.choice((10**6, 10**8)))
        self._empty(self._primary)
        for stream in self._streams:
            self._empty(stream)

    def _empty(self, stream: Any) -> None:
        """Discard what was sent to a client."""
        while stream._responses.qsize():
            stream._responses.get()

    def config(self, rnd: random.Random) -> None:
        """Send a pipeline config, possibly with changes: after a failure the state is unchanged."""
        text = changed_json(self._config.p4_device_config, rnd)
        request = p4runtime_pb2.SetForwardingPipelineConfigRequest(device_id=DEVICE_ID, action=rnd.randrange(1, 6))
        request.election_id.high = request.election_id.low = PRIMARY
        if request.action != request.COMMIT or rnd.random() < 0.2:
            request.config.p4info.CopyFrom(self._config.p4info)
            request.config.p4_device_config = text
            for _ in range(rnd.randrange(3)):
                self._generator.mutate(request.config.p4info)
        before = self.state()
        result = self._call("config", request, lambda: self.device.set_config(request))
        if isinstance(result, RequestError):
            if self.state() != before:
                raise Broken("a failed config changed the state", request)
        else:
            self.codes["config", OK] += 1
            if request.action != request.VERIFY:
                self._call("packet through an accepted program", request, self.packet)
                self.device.load(self._config)  # Further requests are made for this program.


def fuzzer_of(name: str, seed: int) -> Fuzzer:
    """A fuzzer for a program; the first program has roles."""
    config = program_config(name)
    if name == PROGRAMS[0]:
        config.p4info.tables[0].preamble.annotations.append('@p4runtime_role("a")')
    return Fuzzer(config.p4_device_config, config.p4info, random.Random(seed))


@click.command()
@click.option("--seconds", type=float, default=60, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--configs", type=float, default=0.02, show_default=True, help="Share of steps that set a pipeline config."
)
@click.option("--keep", type=click.Path(path_type=Path), help="File for a request that violated a check, in binary.")
def main(seconds: float, seed: int, configs: float, keep: Path | None) -> None:
    """Send random requests to devices for a number of seconds."""
    rnd = random.Random(seed)
    devices = [fuzzer_of(name, seed) for name in PROGRAMS]
    ends = time.monotonic() + seconds
    steps, half_kib = 0, 0
    while time.monotonic() < ends:
        for fuzzer in devices:
            try:
                if rnd.random() < configs:
                    fuzzer.config(rnd)
                else:
                    fuzzer.step()
            except Broken as error:
                if keep is not None:
                    keep.write_bytes(error.request.SerializeToString())
                raise
            steps += 1
        if not half_kib and time.monotonic() > ends - seconds / 2:
            half_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total: Counter[tuple[str, int]] = Counter()
    for fuzzer in devices:
        total += fuzzer.codes
    print(f"{steps} steps; most memory {half_kib} KiB after half the time,", end=" ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} KiB at the end")
    for (what, code), count in sorted(total.items()):
        print(f"{what}: code {code}: {count}")


if __name__ == "__main__":
    main()
