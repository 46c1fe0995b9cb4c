"""A store of prefixes in memory: engines push KV to it, and fetch it layer by layer (stage 1).

::

    python -m host_agent.engines.store --listen 10.0.3.1:7200 --agent /run/mfs/agent.sock

One store serves one tensor-parallel rank; rank N of an engine uses the N-th port after it. The store opens a flow for
each layer that it sends, with the deadline and the batch that the reader names, at the agent of its own host.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from types import FrameType

from host_agent.client import OpenFlow
from host_agent.engines.channel import Channel, Server, layer_frame
from host_agent.engines.errors import TransferError
from host_agent.engines.flows import Announcer
from host_agent.engines.params import Address, ConnectorOptions
from host_agent.engines.records import Record, Records
from host_agent.engines.wire import Frame, Kind
from host_agent.protocol.errors import AgentError
from host_agent.protocol.flow_request import BATCH_MAX
from host_agent.protocol.stamp import SLACK_MAX_US, SLACK_MIN_US, Stage

_LOG = logging.getLogger(__name__)

CAPACITY_BYTES = 4 << 30
BLOCK_MAX_BYTES = 1 << 30
LAYERS_MAX = 4096
_Layers = list[bytes | None]


class BlockStore:
    """Blocks by name, the least recently used ones dropped first. Thread-safe."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[str, list[bytes]] = OrderedDict()
        self.used = 0

    def put(self, key: str, layers: list[bytes]) -> None:
        """Keep a block: its bytes in each layer. A block that is there already stays."""
        size = sum(len(layer) for layer in layers)
        with self._lock:
            if key in self._blocks or size > self._capacity:
                return
            self._blocks[key] = layers
            self.used += size
            while self.used > self._capacity:
                _, dropped = self._blocks.popitem(last=False)
                self.used -= sum(len(layer) for layer in dropped)

    def prefix(self, keys: Sequence[str]) -> list[list[bytes]]:
        """Return the blocks of the longest prefix of ``keys`` that is here; they count as used."""
        found = []
        with self._lock:
            for key in keys:
                if (block := self._blocks.get(key)) is None:
                    break
                self._blocks.move_to_end(key)
                found.append(block)
        return found


class Store:
    """A server in front of a :class:`BlockStore`."""

    def __init__(
        self,
        address: Address,
        secret: bytes,
        announcer: Announcer,
        records: Records,
        timeout_s: float = 30.0,
        capacity_bytes: int = CAPACITY_BYTES,
    ) -> None:
        """Listen at ``address``.

        Raises:
            TransferError: the address cannot be bound.
        """
        self.blocks = BlockStore(capacity_bytes)
        self._announcer = announcer
        self._records = records
        self._server = Server(address, secret, timeout_s, self._serve, Kind.BEGIN, Kind.FETCH, Kind.LOOKUP)

    @property
    def port(self) -> int:
        """TCP port."""
        return self._server.port

    def close(self) -> None:
        """Close the listener and all connections."""
        self._server.close()

    def _serve(self, channel: Channel, frame: Frame) -> None:
        keys = frame.texts("keys")
        if frame.kind is Kind.BEGIN:
            self._take(channel, frame, keys)
        elif frame.kind is Kind.LOOKUP:
            channel.send(Frame(Kind.ACCEPT, {"blocks": len(self.blocks.prefix(keys))}))
        else:
            self._give(channel, frame, keys)

    def _take(self, channel: Channel, begin: Frame, keys: Sequence[str]) -> None:
        layout = begin.fields.get("layout")
        if not isinstance(layout, dict):
            raise TransferError("the push has no layout")
        sizes = Frame(Kind.BEGIN, layout)
        layers, block_bytes = sizes.integer("layers", 1, LAYERS_MAX), sizes.integer("block_bytes", 1, BLOCK_MAX_BYTES)
        first = len(self.blocks.prefix(keys))
        channel.send(Frame(Kind.ACCEPT, {"first": first}))
        arriving: list[_Layers] = [[None] * layers for _ in keys]
        while (frame := channel.receive(Kind.LAYER, Kind.END)).kind is Kind.LAYER:
            layer, start = frame.integer("layer", 0, layers - 1), frame.integer("first", 0, len(keys) - 1)
            count = frame.integer("blocks", 1, len(keys) - start)
            payload = channel.receive_payload(frame, count * block_bytes)
            for number in range(count):
                arriving[start + number][layer] = bytes(payload[number * block_bytes : (number + 1) * block_bytes])
        for key, block in zip(keys[first:], arriving[first:], strict=True):
            whole = [part for part in block if part is not None]
            if len(whole) != layers:
                raise TransferError("the push ended with layers missing")
            self.blocks.put(key, whole)
        channel.send(Frame(Kind.DONE))

    def _give(self, channel: Channel, fetch: Frame, keys: Sequence[str]) -> None:
        batch = fetch.integer("batch", 0, BATCH_MAX)
        deadline_ns = time.monotonic_ns() + 1000 * fetch.integer("slack_us", SLACK_MIN_US, SLACK_MAX_US)
        opened_ns = time.monotonic_ns()
        blocks = self.blocks.prefix(keys)
        channel.send(Frame(Kind.ACCEPT, {"blocks": len(blocks)}))
        if not blocks:
            return
        began_ns = time.monotonic_ns()
        layers = len(blocks[0])
        layer_bytes = sum(len(block[0]) for block in blocks)
        flow: OpenFlow | None = None
        stamped = True
        try:
            for layer in range(layers):
                flow = self._announcer.open(
                    channel.socket,
                    batch=batch,
                    stage=Stage.KV_REUSE,
                    deadline_ns=max(0, deadline_ns),
                    total_bytes=layer_bytes,
                    target_layer=layer,
                    beyond_bytes=layer_bytes * (layers - 1 - layer),
                )
                stamped = stamped and flow is not None
                channel.send(layer_frame(layer, 0, len(blocks), layer_bytes), [block[layer] for block in blocks])
            channel.send(Frame(Kind.END))
            channel.receive(Kind.DONE)
        finally:
            self._announcer.close(flow)
        self._records.add(
            Record(
                role="serve",
                request="",
                transfer="",
                stage=Stage.KV_REUSE.name,
                peer=channel.peer,
                batch=batch,
                deadline_ns=max(0, deadline_ns),
                payload_bytes=layer_bytes * layers,
                blocks=len(blocks),
                layers=layers,
                stamped=stamped,
                opened_ns=opened_ns,
                began_ns=began_ns,
                ended_ns=time.monotonic_ns(),
            )
        )


def main() -> int:
    """Run a store until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m host_agent.engines.store", description="A store of KV prefixes.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="address for engines")
    parser.add_argument("--agent", default="", metavar="SOCKET", help="socket of the host agent; without: unstamped")
    parser.add_argument("--secret-file", help="file with the secret that all engines share")
    parser.add_argument("--capacity-bytes", type=int, default=CAPACITY_BYTES, help="memory for blocks")
    parser.add_argument("--log", help="file for a line of JSON per fetch")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stop = threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    try:
        secret = ConnectorOptions(secret_file=arguments.secret_file).secret()
        address = Address.parse(arguments.listen, "--listen")
        announcer, records = Announcer(arguments.agent), Records(arguments.log)
        store = Store(address, secret, announcer, records, capacity_bytes=arguments.capacity_bytes)
    except AgentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _LOG.info("serving prefixes at %s", address)
    stop.wait()
    store.close()
    announcer.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
