"""The base of all errors that a user can mend."""

from __future__ import annotations


class MfsError(Exception):
    """Raised on purpose, with a message that names the thing, what is wrong and the way out.

    The command line prints the message alone. The embedded switch, which is independent of this project's other
    packages, has a base of its own: :class:`soft_switch.errors.SwitchError`.
    """
