"""Machine code for pipelines: a compiled program printed as C, compiled, and called through cffi.

:mod:`~soft_switch.native.translator` prints the functions of :mod:`soft_switch.ir` as C; every expression gets a type
that holds all values of its interval (:mod:`~soft_switch.native.numbers`). :mod:`~soft_switch.native.library` compiles
each source once. Counters, registers, meters and the cells of entries are memory that C and Python share
(:mod:`soft_switch.model.cells`); tables are copied into search structures after a change
(:mod:`~soft_switch.native.tables`). C calls back for what only Python can do.
"""
