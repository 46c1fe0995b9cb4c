"""Version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "mfs-switch"
NOT_INSTALLED = "source"
"""Version of a source tree that is not installed."""


def installed_version() -> str:
    """Return the version of the distribution, or :data:`NOT_INSTALLED`."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return NOT_INSTALLED
