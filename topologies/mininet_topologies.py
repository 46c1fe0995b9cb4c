"""Topologies for Mininet's command ``mn``, run in the checkout's directory:

``sudo mn --custom topologies/mininet_topologies.py --topo tor --switch mfs --controller mfs``

``--topo`` is ``tor`` or ``leaf-spine``, optionally with a size: ``--topo tor,servers=4,rate=10000000`` (bits per
second). ``--switch`` is ``mfs`` (embedded) or ``bmv2``.
"""

import functools as _functools
import pathlib as _pathlib
import sys as _sys

# mn executes this file's text instead of importing it, so its path is known only from its code object.
_sys.path.insert(0, str(_pathlib.Path((lambda: 0).__code__.co_filename).resolve().parents[1]))

from topologies import mininet_network as _network
from topologies.catalogue import CATALOGUE as _CATALOGUE

topos = {name: _functools.partial(_network.NamedTopology, name=name) for name in _CATALOGUE}
switches = {"mfs": _network.EmbeddedSwitch, "bmv2": _network.Bmv2Switch}
controllers = {"mfs": _network.MFSController}
