// Urgency without division: 128 + 8 log2(MLU) as a sum of codes, saturated to 0..255. MLU is the minimal link
// utilisation: remaining bytes / (slack x effective bandwidth).
#ifndef MFS_URGENCY_P4
#define MFS_URGENCY_P4

#include "headers.p4"
#include "log2.p4"

// Computes the sign of slack, the code of its magnitude, and the code of the remaining bytes relative to it.
control SlackCode(in int<32> slack, inout metadata_t meta) {
    Log2() log2;
    bit<32> magnitude;

    // Each sum is a separate action, because it takes a stage on Tofino.
    action compare() {
        meta.relative = meta.remaining_wide - meta.slack_wide;
    }

    apply {
        // Tests for zero and for the sign bit, because Tofino compares wide fields for equality only.
        if (slack == 0) {
            meta.late = 1;
            magnitude = 0;
        } else if (slack[31:31] == 1) {
            meta.late = 1;
            magnitude = 0 - (bit<32>)slack;
        } else {
            meta.late = 0;
            magnitude = (bit<32>)slack;
        }
        log2.apply(magnitude, meta.slack_code, meta.slack_wide);
        compare();
    }
}

// A late packet has the highest urgency, because its MLU is unbounded.
control Urgency(inout metadata_t meta) {
    wide_code_t wide;

    action add_bias() {
        wide = meta.relative + meta.bias;
    }

    apply {
        add_bias();
        if (meta.late == 0 && wide[15:15] == 1) {
            meta.urgency = 0;
        } else if (meta.late == 1 || wide[15:8] != 0) {
            meta.urgency = CODE_MAX;
        } else {
            meta.urgency = wide[7:0];
        }
    }
}

#endif
