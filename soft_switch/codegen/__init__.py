"""Compiles a :class:`~soft_switch.model.program.Program` to the functions ``ingress`` and ``egress``.

The result is a tree of typed statements (:mod:`soft_switch.ir`), without unused ones: fields are extracted, carried
from ingress to egress and written back only where they matter.
"""
