"""Which client is primary: election ids of the connected clients of a role (specification, "Client Arbitration").

Pure logic: the caller delivers the notices in order.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from soft_switch.p4runtime.status import ALREADY_EXISTS, NOT_FOUND, OK, invalid

Client = TypeVar("Client", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Notice(Generic[Client]):
    """Arbitration notice to a client.

    Attributes:
        election_id: the highest election id so far; None if there was none.
        code: OK for the primary, ALREADY_EXISTS for a backup while there is a primary, otherwise NOT_FOUND.
    """

    client: Client
    election_id: int | None
    code: int


class Arbiter(Generic[Client]):
    """Connected clients with their election ids (128 bits; None for clients that never become primary)."""

    def __init__(self) -> None:
        self.highest: int | None = None
        self.clients: dict[Client, int | None] = {}

    @property
    def primary(self) -> Client | None:
        """The client whose election id is the highest so far, if it is connected."""
        if self.highest is None:
            return None
        return next((client for client, held in self.clients.items() if held == self.highest), None)

    def is_primary(self, election_id: int | None) -> bool:
        """Return whether a request with this election id comes from the primary."""
        return election_id is not None and election_id == self.highest and self.primary is not None

    def update(self, client: Client, election_id: int | None) -> list[Notice[Client]]:
        """Admit ``client`` or change its election id; return the notices to deliver.

        Raises:
            RequestError: INVALID_ARGUMENT if another connected client has that election id; end the client's stream.
        """
        if election_id is not None:
            for other, held in self.clients.items():
                if other != client and held == election_id:
                    raise invalid(f"election id {election_id} is used by another connected client; use another")
        was_primary = client == self.primary
        self.clients[client] = election_id
        if election_id is not None and (self.highest is None or election_id >= self.highest):
            self.highest = election_id
            return self._notices()
        if was_primary:
            return self._notices()
        return [notice for notice in self._notices() if notice.client == client]

    def leave(self, client: Client) -> list[Notice[Client]]:
        """Remove a client; if it was primary, the notices tell the others that there is none."""
        was_primary = client == self.primary
        self.clients.pop(client, None)
        return self._notices() if was_primary else []

    def _notices(self) -> list[Notice[Client]]:
        """Return a notice for every client; the primary's is last, so that it acts only when the others know."""
        primary = self.primary
        backup_code = NOT_FOUND if primary is None else ALREADY_EXISTS
        notices = [Notice(client, self.highest, backup_code) for client in self.clients if client != primary]
        if primary is not None:
            notices.append(Notice(primary, self.highest, OK))
        return notices
