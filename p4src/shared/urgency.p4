// Urgency without division: 128 + 8 log2(MLU) as a sum of codes, saturating in 0..255.
#ifndef MFS_URGENCY_P4
#define MFS_URGENCY_P4

#include "headers.p4"
#include "log2.p4"

// Slack to its sign and the code of its magnitude.
control SlackCode(in int<32> slack, out bit<1> late, out code_t code) {
    Log2() log2;
    bit<32> magnitude;

    apply {
        // By sign and zero, not by order: Tofino compares wide fields for equality alone.
        late = 0;
        magnitude = (bit<32>)slack;
        if (slack == 0) {
            late = 1;
        } else if (slack[31:31] == 1) {
            late = 1;
            magnitude = 0 - (bit<32>)slack;
        }
        log2.apply(magnitude, code);
    }
}

// A packet that is late is as urgent as can be: its MLU has no bound.
control Urgency(in code_t remaining_code, in wide_code_t bias, in bit<1> late, in code_t slack_code,
                out code_t urgency) {
    wide_code_t wide;

    apply {
        // The difference of the packet's own codes first: a switch knows them before it knows the port's bias.
        wide = (wide_code_t)remaining_code;
        wide = wide - (wide_code_t)slack_code;
        wide = wide + bias;
        if (late == 0 && wide[15:15] == 1) {
            urgency = 0;
        } else if (late == 1 || wide[15:8] != 0) {
            urgency = CODE_MAX;
        } else {
            urgency = wide[7:0];
        }
    }
}

#endif
