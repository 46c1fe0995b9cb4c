"""The generated pipeline as machine code: its Python source translated to C, compiled, and called through cffi.

The Python that :mod:`soft_switch.codegen` makes is the one description of a program. Here it is parsed
(:mod:`~soft_switch.native.translator`), every expression is given a C type that holds all the values that it can have
(:mod:`~soft_switch.native.numbers`), and the result is compiled once for each source
(:mod:`~soft_switch.native.library`). Counters, registers, meters and the cells of entries are one memory for both
languages (:mod:`soft_switch.model.cells`); tables are copied into search structures after a change
(:mod:`~soft_switch.native.tables`). What only Python can do is called back.
"""
