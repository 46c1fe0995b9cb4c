"""Source of an agent's policy: the controller, over HTTP, and a copy on disk for when the controller is away."""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from host_agent.ebpf.errors import PolicyError
from host_agent.protocol.policy_document import DocumentError, PolicyDocument

TIMEOUT_S = 2.0
SIZE_MAX = 1 << 20
"""Longest document that is read, in bytes."""


class PolicySource:
    """Policy of a controller, fetched over HTTP and kept in a file."""

    def __init__(self, url: str, saved: Path | None = None) -> None:
        """Set the controller's ``url``, as ``http://HOST:PORT``, and the file ``saved``.

        Raises:
            PolicyError: not an HTTP URL.
        """
        if not url.startswith(("http://", "https://")):
            raise PolicyError(f"the controller's URL {url!r} does not start with http://")
        self._url = url.rstrip("/") + "/policy"
        self._saved = saved
        self._tag = ""

    def fetch(self) -> PolicyDocument | None:
        """Return the controller's policy; None if it has not changed since the last call.

        Raises:
            PolicyError: the controller does not answer, or its answer is not a policy.
        """
        try:
            request = urllib.request.Request(self._url, headers={"If-None-Match": self._tag} if self._tag else {})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
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
        self, source: PolicySource, interval_s: float, on_news: Callable[[PolicyDocument | str], None]
    ) -> None:
        """Set the callback: ``on_news`` is called in that thread with a new policy, or once per outage with its reason.

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
                self._on_news("the controller answers again")
            complained = False


def saved_path(directory: Path, interface: str) -> Path:
    """Return the file that keeps the policy of ``interface``."""
    return directory / f"policy-{interface.replace(os.sep, '_')}.json"
