"""Intermediate representation of a compiled program: typed expressions and statements.

:mod:`soft_switch.codegen` builds it from a P4 program, :mod:`soft_switch.ir.liveness` removes unused statements, and
two printers turn it into source text: :mod:`soft_switch.ir.python` and :mod:`soft_switch.native.functions` (C).

Every field that the program uses is a variable of the generated function, and so is the validity of each header.
Variables have a type that is fixed when they are named: an interval of numbers, bytes of a packet, or the result of a
table.
"""
