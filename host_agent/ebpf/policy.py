"""Source of an agent's policy: the controller, over HTTP, and a copy on disk for when the controller is away."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from host_agent.ebpf.errors import PolicyError
from host_agent.file_times import changed
from host_agent.protocol.agent_header import HEADER, AgentIdentity
from host_agent.protocol.policy_document import DocumentError, PolicyDocument

_LOG = logging.getLogger(__name__)

TIMEOUT_S = 2.0
ANSWERS = "answers"
"""What an agent says of a controller that answered the last request; otherwise it gives the reason."""
SIZE_MAX = 1 << 20
"""Longest document that is read, in bytes."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files: authorities that sign the controller's certificate, and a certificate of the agent's own with its key.

    Without ``ca``, the authorities of this machine are trusted. Files are read again when they change.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context for the client's side.

        Raises:
            PolicyError: a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            files = ", ".join(str(path) for path in (self.ca, self.certificate, self.key) if path is not None)
            raise PolicyError(f"cannot use the TLS files {files}: {error}") from None
        return context

    def changed(self) -> tuple[int, ...]:
        """Return when the files were changed."""
        return changed(self.ca, self.certificate, self.key)


class PolicySource:
    """Policy of a controller, fetched over HTTP and kept in a file."""

    def __init__(
        self, url: str, saved: Path | None = None, tls: ClientTls | None = None, identity: AgentIdentity | None = None
    ) -> None:
        """Set the controller's ``url``, as ``http://HOST:PORT`` or ``https://...``, and the file ``saved``.

        Args:
            url: where the controller serves the policy.
            saved: where to keep it.
            tls: files for https; by default the authorities of this machine are trusted.
            identity: of the agent, for the controller.

        Raises:
            PolicyError: not an HTTP URL, or a TLS file cannot be used.
        """
        if not url.startswith(("http://", "https://")):
            raise PolicyError(f"the controller's URL {url!r} does not start with http://")
        if tls is not None and not url.startswith("https://"):
            raise PolicyError(f"TLS files are given, but the controller's URL {url!r} does not start with https://")
        self._url = url.rstrip("/") + "/policy"
        self._tls = (tls or ClientTls()) if url.startswith("https://") else None
        self._changed = None if self._tls is None else self._tls.changed()
        self._context = None if self._tls is None else self._tls.context()
        self._headers = {} if identity is None else {HEADER: identity.to_header()}
        self._saved = saved
        self._tag = ""

    def fetch(self) -> PolicyDocument | None:
        """Return the controller's policy; None if it has not changed since the last call.

        Raises:
            PolicyError: the controller does not answer, or its answer is not a policy.
        """
        self._read_changed_files()
        try:
            tag = {"If-None-Match": self._tag} if self._tag else {}
            request = urllib.request.Request(self._url, headers=self._headers | tag)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._context) as answer:
                text = answer.read(SIZE_MAX)
                tag = answer.headers.get("ETag", "")
            document = PolicyDocument.from_json(text)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 304:
                return None
            raise PolicyError(f"the controller at {self._url} answers {error.code} {error.reason}") from None
        except DocumentError as error:
            raise PolicyError(f"the controller at {self._url} serves no valid policy: {error}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PolicyError(f"the controller at {self._url} cannot be reached: {reason}") from None
        self._tag = tag
        return document

    def _read_changed_files(self) -> None:
        if self._tls is None or (now := self._tls.changed()) == self._changed:
            return
        self._changed = now
        try:
            self._context = self._tls.context()
            _LOG.info("TLS files for %s read again", self._url)
        except PolicyError as error:
            # Certificate and key may be replaced one after the other.
            _LOG.warning("%s; the former ones stay", error)

    def save(self, document: PolicyDocument) -> None:
        """Keep ``document`` on disk, for a start without the controller.

        Raises:
            PolicyError: the file cannot be written.
        """
        if self._saved is None:
            return
        try:
            self._saved.parent.mkdir(parents=True, exist_ok=True)
            part = self._saved.with_suffix(".part")
            part.write_text(document.to_json() + "\n", "utf-8")
            part.replace(self._saved)
        except OSError as error:
            raise PolicyError(f"the policy cannot be saved: {error}") from None

    def load(self) -> PolicyDocument | None:
        """Return the policy kept on disk; None if there is none or it is broken."""
        if self._saved is None:
            return None
        with contextlib.suppress(OSError, DocumentError):
            return PolicyDocument.from_json(self._saved.read_text("utf-8"))
        return None


class PolicyWatch:
    """Thread that fetches the policy at an interval, so that a silent controller delays nothing else."""

    def __init__(
        self, source: PolicySource, interval_s: float, on_news: Callable[[PolicyDocument | str | None], None]
    ) -> None:
        """Set the callback: ``on_news`` is called in that thread with a new policy, once per outage with its reason,
        and with None when the controller answers again and the policy is the same.

        Args:
            source: policy source.
            interval_s: seconds between requests.
            on_news: callback.
        """
        self._source = source
        self._interval_s = interval_s
        self._on_news = on_news
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy-watch", daemon=True)

    def start(self) -> None:
        """Start; the first request follows after one interval."""
        self._thread.start()

    def close(self) -> None:
        """Stop, after a request in flight if there is one."""
        self._end.set()

    def _watch(self) -> None:
        complained = False
        while not self._end.wait(self._interval_s):
            try:
                document = self._source.fetch()
            except PolicyError as error:
                if not complained:
                    self._on_news(str(error))
                complained = True
                continue
            if document is not None:
                self._on_news(document)
            elif complained:
                self._on_news(None)
            complained = False


def saved_path(directory: Path, interface: str) -> Path:
    """Return the file that keeps the policy of ``interface``."""
    return directory / f"policy-{interface.replace(os.sep, '_')}.json"
