"""Mutual authentication of two engines by a shared secret: HMAC-SHA256 over both nonces.

The connecting side sends HELLO with its nonce; the other side answers HELLO with its own nonce and proof; the
connecting side sends PROOF. Without a secret on both sides, anyone who reaches the port may connect. Payloads are
neither encrypted nor authenticated: as with RDMA, the network that carries KV must be trusted.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

NONCE_BYTES = 16
CLIENT = "client"
SERVER = "server"


def nonce() -> str:
    """Return a new nonce, as hexadecimal digits."""
    return secrets.token_hex(NONCE_BYTES)


def proof(secret: bytes, side: str, client_nonce: str, server_nonce: str) -> str:
    """Return the proof of ``side``, :data:`CLIENT` or :data:`SERVER`, as hexadecimal digits."""
    words = "|".join(("mfs-kv", side, client_nonce, server_nonce))
    return hmac.new(secret, words.encode(), hashlib.sha256).hexdigest()


def proves(secret: bytes, side: str, client_nonce: str, server_nonce: str, given: object) -> bool:
    """Return whether ``given`` is the proof of ``side``; takes the same time whatever it is."""
    expected = proof(secret, side, client_nonce, server_nonce)
    return isinstance(given, str) and hmac.compare_digest(expected.encode(), given.encode())
