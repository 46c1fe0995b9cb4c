// 8-bit logarithmic code of a 32-bit number: eight steps per octave, linear within an octave; 0 and 1 share code 0.
// It is returned in two widths: narrow for keys, wide for sums.
#ifndef MFS_LOG2_P4
#define MFS_LOG2_P4

#include "constants.p4"

control Log2(in bit<32> value, out code_t code, out wide_code_t wide_code) {
    action set_code(code_t value_code) {
        code = value_code;
        wide_code = (wide_code_t)value_code;
    }

    // One entry for each value of the leading one and the three bits below it. No size is given, so Tofino's
    // compiler assumes 512 and warns.
    table log2 {
        key = { value : ternary; }
        actions = { set_code; }
        const default_action = set_code(0);
        const entries = {
#include "log2_entries.p4"
        }
    }

    apply {
        log2.apply();
    }
}

#endif
