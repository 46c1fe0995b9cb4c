"""Translates a program to C."""

from __future__ import annotations

import re

from soft_switch.ir.program import Generated
from soft_switch.native.errors import CannotTranslateError
from soft_switch.native.functions import FunctionPrinter
from soft_switch.native.module import Module, Translated


def translate(generated: Generated) -> Translated:
    """Translate a program to C.

    Raises:
        CannotTranslateError: the program uses something that has no translation.
    """
    try:
        return _translated(Module(generated))
    except RecursionError as error:
        raise CannotTranslateError("expressions that are nested too deeply") from error
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # A damaged program: Python says what is wrong with it, or runs it.
        raise CannotTranslateError(f"code of an unexpected form ({type(error).__name__}: {error})") from error


def _translated(module: Module) -> Translated:
    generated, result = module.generated, module.result
    body = "\n".join(line for function in generated.functions for line in FunctionPrinter(module, function).lines())
    state = module.state()
    rid, result.rid_bytes = module.place("rid", generated.rid_at)
    priority, result.priority_bytes = module.place("priority", generated.priority_at)
    wide = [f"WIDE({size})" for size in sorted(set(map(int, re.findall(r"\bw(\d+)", f"{state} {body}"))))]
    size = "u64 pipeline_state_bytes(void) { return sizeof(struct carried); }"
    header = f"#define HEADER_BYTES {result.header_bytes}"
    result.source = "\n".join([*wide, "", header, "", state, "", body, rid, priority, size, ""])
    return result
