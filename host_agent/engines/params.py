"""What a request says of its transfers and its deadline, and the connector's configuration. Pure.

A request carries ``kv_transfer_params={"mfs": {...}}``:

- ``transfer``: name of the push from the prefill engine to the decode engine; any string that is not used again.
- ``to``: HOST:PORT of the decode engine's connector. For the prefill engine: push the KV there (stage 3).
- ``receive``: true. For the decode engine: take the prompt's KV from the push ``transfer``.
- ``fetch``: HOST:PORT of a store. For the prefill engine: take the longest prefix that the store has (stage 1).
- ``store``: HOST:PORT of a store. For the prefill engine: keep the prompt's KV there.
- ``deadline_ms``: objective for the time to first token, in milliseconds from the request's arrival.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from host_agent.engines.errors import ParamsError
from host_agent.protocol.stamp import SLACK_MAX_US

DEADLINE_MAX_MS = SLACK_MAX_US // 1000
NS_PER_MS = 1_000_000
_HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a connector or a store listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: object, what: str) -> Address:
        """Read ``HOST:PORT``; an IPv6 address stands in brackets. ``what`` names it in errors.

        Raises:
            ParamsError: it is not valid.
        """
        matched = _HOST_PORT.fullmatch(text) if isinstance(text, str) else None
        if matched is None or not 0 < int(matched[3]) < 1 << 16:
            raise ParamsError(f"{what} {text!r} is not HOST:PORT; an IPv6 address stands in brackets: [fd00::1]:7100")
        if matched[1]:
            try:
                ipaddress.IPv6Address(matched[1].partition("%")[0])
            except ValueError:
                raise ParamsError(f"{what} {text!r}: {matched[1]!r} is not an IPv6 address") from None
        return cls(matched[1] or matched[2], int(matched[3]))

    def of_rank(self, rank: int) -> Address:
        """Return the address of a tensor-parallel rank: ranks listen at consecutive ports."""
        return Address(self.host, self.port + rank)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TransferParams:
    """``kv_transfer_params["mfs"]``; the module's docstring has the fields.

    Raises:
        ParamsError: the fields contradict each other.
    """

    transfer: str | None = None
    to: Address | None = None
    receive: bool = False
    fetch: Address | None = None
    store: Address | None = None
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        if (self.to is not None or self.receive) and not self.transfer:
            raise ParamsError('"to" and "receive" need "transfer", the name of the push')
        if self.to is not None and self.receive:
            raise ParamsError('a request has either "to" (prefill engine) or "receive" (decode engine)')

    @classmethod
    def from_request(cls, kv_transfer_params: object) -> TransferParams | None:
        """Read the parameters of a request; None if it has none for this connector.

        Raises:
            ParamsError: they are invalid.
        """
        values = kv_transfer_params.get("mfs") if isinstance(kv_transfer_params, Mapping) else None
        if values is None:
            return None
        known = {each.name for each in fields(cls)}
        if not isinstance(values, Mapping) or not values.keys() <= known:
            raise ParamsError(f'kv_transfer_params["mfs"] is an object with the fields {", ".join(sorted(known))}')
        read: dict[str, Any] = dict(values)
        for name in ("to", "fetch", "store"):
            if read.get(name) is not None:
                read[name] = Address.parse(read[name], name)
        if read.get("transfer") is not None and not isinstance(read["transfer"], str):
            raise ParamsError(f"transfer {read['transfer']!r} is not a string")
        if not isinstance(read.get("receive", False), bool):
            raise ParamsError(f"receive {read['receive']!r} is not true or false")
        if read.get("deadline_ms") is not None:
            read["deadline_ms"] = checked_deadline_ms(read["deadline_ms"])
        return cls(**read)


@dataclass(frozen=True, slots=True)
class PeerParams:
    """``kv_transfer_params["mfs"]`` of a request whose KV another connector moves: its deadline, and who gets its KV.

    Attributes:
        to: IP address from which the decode engine reads, or to which the KV is written; None if it is not known.
        deadline_ms: objective for the time to first token, from the request's arrival.
    """

    to: str | None = None
    deadline_ms: float | None = None

    @classmethod
    def from_request(cls, kv_transfer_params: object) -> PeerParams:
        """Read the parameters of a request.

        Raises:
            ParamsError: they are invalid.
        """
        values = kv_transfer_params.get("mfs") if isinstance(kv_transfer_params, Mapping) else None
        if values is None:
            return cls()
        if not isinstance(values, Mapping) or not values.keys() <= {"to", "deadline_ms"}:
            raise ParamsError('kv_transfer_params["mfs"] is an object with the fields to, deadline_ms')
        to, deadline_ms = values.get("to"), values.get("deadline_ms")
        try:
            to = None if to is None else str(ipaddress.ip_address(to))
        except ValueError:
            raise ParamsError(f"to {to!r} is not an IP address") from None
        return cls(to, None if deadline_ms is None else checked_deadline_ms(deadline_ms))


def checked_deadline_ms(value: object) -> float:
    """Return ``value``, a deadline in milliseconds.

    Raises:
        ParamsError: it is not a number above 0, or more than a stamp can carry.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= DEADLINE_MAX_MS:
        raise ParamsError(f"deadline_ms {value!r} is not a number above 0 and up to {DEADLINE_MAX_MS}")
    return float(value)


def objective_ms(
    params: TransferParams | PeerParams | None,
    extra_args: object,
    hints: object,
    defaults: Mapping[str, float],
    model: str,
) -> float:
    """Return a request's objective for the time to first token, in milliseconds from its arrival.

    The first of these that is given: ``deadline_ms`` of the transfer parameters, ``mfs_deadline_ms`` of ``vllm_xargs``
    (``sampling_params.extra_args``), ``mfs_deadline_ms`` of the KV hints, the default of the model, the default of all
    models (``""``). Values that are no valid deadline are passed over: the client chose them, and must not stop the
    engine.
    """
    candidates = [None if params is None else params.deadline_ms]
    candidates += [each.get("mfs_deadline_ms") if isinstance(each, Mapping) else None for each in (extra_args, hints)]
    for value in candidates:
        if value is not None:
            try:
                return checked_deadline_ms(value)
            except ParamsError:
                continue
    return defaults.get(model, defaults[""])


def deadline_ns(objective: float, arrival_s: float, now_s: float, now_ns: int) -> int:
    """Return the deadline on CLOCK_MONOTONIC in nanoseconds.

    Args:
        objective: milliseconds from the arrival.
        arrival_s: arrival in seconds, on the clock of ``now_s``.
        now_s: the time now, in seconds since the epoch.
        now_ns: the time now, on CLOCK_MONOTONIC in nanoseconds.
    """
    return max(0, now_ns + round(objective * NS_PER_MS) - round((now_s - arrival_s) * 1e9))


DEFAULT_DEADLINE_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class ConnectorOptions:
    """``kv_connector_extra_config`` of ``--kv-transfer-config``.

    Attributes:
        listen: HOST:PORT of this engine's connector, for pushes to it; rank N listens at PORT + N. Needed by a
            decode engine.
        prefixes: HOST:PORT at which this engine keeps prefixes for others, as a store does; ranks as above.
        prefix_bytes: memory for them.
        agent: socket of the host agent; None for the default path, "" for no agent.
        secret_file: file with the secret that all engines share; None for no authentication.
        deadlines_ms: default objectives by model; ``""`` for all others.
        staging_bytes: computed KV that may wait in host memory; a layer's copy waits while there is no room.
        timeout_s: a peer that does nothing for this long is given up.
        receive_timeout_s: a decode engine waits this long for a push, and then computes the prompt itself.
        model_id: name of the weights, equal on all engines that exchange KV; by default the engine's name of the model.
        log: file to which each transfer that ends is appended as a line of JSON; None for none.
    """

    listen: Address | None = None
    prefixes: Address | None = None
    prefix_bytes: int = 1 << 30
    agent: str | None = None
    secret_file: str | None = None
    deadlines_ms: Mapping[str, float] = field(default_factory=lambda: {"": DEFAULT_DEADLINE_MS})
    staging_bytes: int = 1 << 30
    timeout_s: float = 30.0
    receive_timeout_s: float = 60.0
    model_id: str | None = None
    log: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ConnectorOptions:
        """Read the configuration.

        Raises:
            ParamsError: a field is unknown or invalid.
        """
        known = {each.name for each in fields(cls)}
        if unknown := config.keys() - known:
            raise ParamsError(
                f"kv_connector_extra_config does not take {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(sorted(known))}"
            )
        values = {name: value for name, value in config.items() if value is not None}
        for name in ("listen", "prefixes"):
            if name in values:
                values[name] = Address.parse(values[name], name)
        for name in ("agent", "secret_file", "model_id", "log"):
            if not isinstance(values.get(name, ""), str):
                raise ParamsError(f"{name} {values[name]!r} is not a string")
        for name in ("staging_bytes", "prefix_bytes", "timeout_s", "receive_timeout_s"):
            value = values.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ParamsError(f"{name} {value!r} is not a number above 0")
        if "deadlines_ms" in values:
            given = values["deadlines_ms"]
            if not isinstance(given, Mapping):
                raise ParamsError(f"deadlines_ms {given!r} is not an object of milliseconds by model")
            values["deadlines_ms"] = {
                "": DEFAULT_DEADLINE_MS,
                **{model: checked_deadline_ms(value) for model, value in given.items()},
            }
        return cls(**values)

    def secret(self) -> bytes:
        """Return the shared secret; empty without one.

        Raises:
            ParamsError: the file cannot be read, or is empty.
        """
        if self.secret_file is None:
            return b""
        try:
            with open(self.secret_file, "rb") as file:
                secret = file.read().strip()
        except OSError as error:
            raise ParamsError(f"secret_file {self.secret_file}: {error.strerror or error}") from None
        if not secret:
            raise ParamsError(f"secret_file {self.secret_file} is empty; write a line of random characters to it")
        return secret
