"""``[policy_server]`` in the file of a switch or a fabric: where its controller serves the policy, and over TLS or not.

::

    [policy_server]
    listen = "0.0.0.0:9560"        # as --policy-listen, which takes precedence over this table
    tls_cert = "controller.pem"    # optional: TLS, with files beside this one
    tls_key = "controller.key"
    tls_client_ca = "agents.pem"   # optional: only agents with certificates of these authorities
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from host_agent.http_endpoint import Listen, ServerTls
from mfs_ctrl import toml_report
from mfs_ctrl.config_tables import PolicyServerTable
from mfs_ctrl.toml_report import Report

NAME = "policy_server"


def read(path: Path) -> Listen | None:
    """Return what the table in the file at ``path`` says; None if there is none.

    Raises:
        ConfigError: the file cannot be read, or the table has mistakes.
    """
    return toml_report.read(path, functools.partial(parse, folder=path.parent))


def parse(text: str, folder: Path = Path()) -> Listen | None:
    """Return what the table in ``text`` says; names of files in it are relative to ``folder``.

    Raises:
        ConfigError: ``text`` is not TOML, or the table has mistakes.
    """
    report = Report(text)
    table = checked(toml_report.document(text), report)
    report.raise_mistakes()
    if table is None:
        return None
    if table.tls_cert is None or table.tls_key is None:
        return Listen(table.listen)
    client_ca = None if table.tls_client_ca is None else folder / table.tls_client_ca
    return Listen(table.listen, ServerTls(folder / table.tls_cert, folder / table.tls_key, client_ca))


def checked(document: Mapping[str, Any], report: Report) -> PolicyServerTable | None:
    """Return the table of ``document``, if it has one; mistakes are recorded."""
    if NAME not in document:
        return None
    table = report.validated((NAME,), document[NAME], PolicyServerTable)
    if table is not None:
        missing = (table.tls_cert is None) != (table.tls_key is None)
        if missing or (table.tls_client_ca is not None and table.tls_cert is None):
            report.add((NAME,), "tls_cert and tls_key go together, and tls_client_ca needs both")
    return table
