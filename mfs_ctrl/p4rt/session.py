"""A P4Runtime session with one switch; every gRPC error becomes an error of :mod:`mfs_ctrl.errors`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from google.rpc import code_pb2
from p4.v1 import p4runtime_pb2

from mfs_ctrl.errors import PipelineError, ProgramInUseError, RequestRefusedError, SessionError, SwitchUnreachableError
from mfs_ctrl.p4rt import convert
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.entries import DefaultAction, Entity, MeterConfig
from mfs_ctrl.p4rt.p4info import P4InfoIndex, describe
from mfs_ctrl.p4rt.reader import Requests
from mfs_ctrl.p4rt.status import UPDATES_PER_WRITE, code_name
from mfs_ctrl.p4rt.stream import StreamClient, uint128
from mfs_ctrl.p4rt.updates import DELETE, MODIFY, Update
from p4src.artifact import Artifact


class Session(Requests):
    """A connection to the switch at ``address`` (host:port). Of several, the highest election id is primary.

    The session is not connected until :meth:`connect`; it can connect again after :meth:`close` or a loss. It is in
    plain text without ``tls``. ``on_arbitration`` is called, in another thread, when the switch tells who is primary.
    """

    def __init__(
        self,
        address: str,
        device_id: int = 1,
        election_id: int = 1,
        timeout_s: float = 5.0,
        tls: TlsFiles | None = None,
        on_arbitration: Callable[[], None] | None = None,
    ) -> None:
        if not 0 < election_id < 1 << 128:
            raise SessionError(f"election id {election_id} is outside 1..2^128-1")
        super().__init__(address, device_id, timeout_s)
        self._own_id = election_id
        self._tls = tls
        self._on_arbitration = on_arbitration
        self._client: StreamClient | None = None

    @property
    def election_id(self) -> int:
        """The id in use: the one given, or a higher one after :meth:`claim`."""
        return self._own_id if self._client is None else self._client.election_id

    @property
    def connected(self) -> bool:
        """Whether the session is open and the switch has not ended it."""
        return self._client is not None and self._client.error is None

    @property
    def primary(self) -> bool:
        """Whether this controller may write, according to the switch's latest arbitration message."""
        return self.connected and self._live().arbitration.status.code == code_pb2.OK

    def connect(self) -> bool:
        """Open the session, or reopen it; return whether this controller is primary.

        Raises:
            SwitchUnreachableError: nothing answers at the address.
            SessionError: the switch refuses the election id or the device id.
        """
        self.close()
        self._client = StreamClient(
            self.address, self.device_id, self._own_id, self.timeout_s, self._tls, self._on_arbitration
        )
        return self.primary

    def claim(self) -> bool:
        """Become primary if the switch says that there is none, also later; return whether this controller is primary.

        Raises:
            SessionError: the switch does not answer, or refuses.
        """
        if not self.connected:
            return False
        self._live().contend()
        return self.primary

    def close(self) -> None:
        """End the session, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def ensure_pipeline(self, artifact: Artifact, replace: bool = False) -> tuple[P4InfoIndex, str]:
        """Load the program unless the switch already runs it; return the program's index, and what was loaded.

        The latter is text, empty if nothing was loaded. Loading a program removes all entries of the switch, so one
        with another P4Info is loaded over only with ``replace``.

        Raises:
            ProgramInUseError: the switch runs another program, and ``replace`` is False.
            PipelineError: the switch refuses the program.
        """
        index = P4InfoIndex.from_text(artifact.p4info)
        cookie = pipeline_cookie(artifact)
        held = self.program()
        done = f"program {artifact.name} loaded"
        if held is not None:
            if held.p4info == index.message:
                if held.cookie == cookie or self._device_config() == artifact.config:
                    return index, ""
                done += " over another build of it"
            elif not replace:
                raise ProgramInUseError(self.address, describe(held.p4info), artifact.name)
            else:
                done += f" over {describe(held.p4info)}"
        request = p4runtime_pb2.SetForwardingPipelineConfigRequest(
            device_id=self.device_id,
            election_id=self._election(),
            action=p4runtime_pb2.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
        )
        request.config.p4info.CopyFrom(index.message)
        request.config.p4_device_config = artifact.config
        request.config.cookie.cookie = cookie
        # Loading a program takes longer than a read.
        load_timeout_s = 10 * self.timeout_s
        try:
            self._call(lambda stub: stub.SetForwardingPipelineConfig(request, timeout=load_timeout_s), "the program")
        except RequestRefusedError as error:
            raise PipelineError(str(error)) from None
        return index, done

    def write(self, updates: Sequence[Update], index: P4InfoIndex) -> int:
        """Apply ``updates``, which must not depend on one another; return the number of requests.

        Raises:
            WriteFailedError: the switch refused some, which the error names; the others of their batch are applied.
            NotPrimaryError: another controller is primary.
        """
        requests = 0
        for start in range(0, len(updates), UPDATES_PER_WRITE):
            self._write_batch(updates[start : start + UPDATES_PER_WRITE], index)
            requests += 1
        return requests

    def holds(self, present: Entity, wanted: Entity) -> bool:
        """Return whether both are equal: P4Runtime reports what was written."""
        return present == wanted

    def stream_errors(self) -> list[str]:
        """Return the errors that the switch has reported on the stream since the last call.

        Raises:
            SessionError: the session has ended.
        """
        complaints = self._live().complaints
        reported = []
        while not complaints.empty():
            error = complaints.get()
            reported.append(f"{code_name(error.canonical_code)}: {error.message or 'no reason given'}")
        return reported

    def _write_batch(self, batch: Sequence[Update], index: P4InfoIndex) -> None:
        request = p4runtime_pb2.WriteRequest(device_id=self.device_id, election_id=self._election())
        request.updates.extend(_encode_update(update, index) for update in batch)
        self._call(lambda stub: stub.Write(request, timeout=self.timeout_s), "a write", batch)

    def _device_config(self) -> bytes:
        request = p4runtime_pb2.GetForwardingPipelineConfigRequest(
            device_id=self.device_id,
            response_type=p4runtime_pb2.GetForwardingPipelineConfigRequest.DEVICE_CONFIG_AND_COOKIE,
        )
        held = self._call(
            lambda stub: stub.GetForwardingPipelineConfig(request, timeout=self.timeout_s), "the query for its program"
        )
        return bytes(held.config.p4_device_config)

    def _election(self) -> p4runtime_pb2.Uint128:
        return uint128(self.election_id)

    def _stub(self) -> Any:
        return self._live().stub

    def _live(self) -> StreamClient:
        if self._client is None:
            raise SwitchUnreachableError(f"there is no session with the switch at {self.address}; call connect() first")
        if self._client.error is not None:
            raise self._client.error
        return self._client


def pipeline_cookie(artifact: Artifact) -> int:
    """Return the 64-bit number that identifies a compiled program."""
    digest = hashlib.sha256(artifact.config + b"\0" + artifact.p4info.encode())
    return int.from_bytes(digest.digest()[:8], "big")


def _encode_update(update: Update, index: P4InfoIndex) -> p4runtime_pb2.Update:
    operation, entity = update.operation, update.entity
    if not isinstance(entity, DefaultAction | MeterConfig):
        return p4runtime_pb2.Update(type=operation, entity=convert.encode(entity, index))
    # Default actions and meter cells always exist: they can only be modified.
    encode = convert.encode_reset if operation is DELETE else convert.encode
    return p4runtime_pb2.Update(type=MODIFY, entity=encode(entity, index))
