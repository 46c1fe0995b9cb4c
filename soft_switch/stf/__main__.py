"""``python -m soft_switch.stf``: the command ``mfs stf`` without the rest of ``mfs``."""

from __future__ import annotations

from soft_switch.stf.command import stf

if __name__ == "__main__":
    stf()
