"""Turns a :class:`~soft_switch.model.program.Program` into the source of two Python functions, ``ingress`` and
``egress``.

Every field that the program uses is a local variable of the function; validity of a header is one, too. Code is first
a small tree of statements (:mod:`~soft_switch.codegen.ir`), from which whatever nobody reads is pruned, so that fields
are extracted, carried from ingress to egress and written back only where they matter.
"""
