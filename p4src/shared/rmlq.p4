// Level of a stamped packet, in the reverse multi-level queue (RMLQ). All policy is in the entries of the table rmlq.
//
// The control Codes depends on the stamp alone, so that it can run before ingress port and route have been looked up.
#ifndef MFS_RMLQ_P4
#define MFS_RMLQ_P4

#include "headers.p4"
#include "urgency.p4"

control Codes(in mfs_t mfs, inout metadata_t meta) {
    Log2() remaining_log2;
    SlackCode() slack_log2;

    apply {
        remaining_log2.apply(mfs.remaining, meta.remaining_code, meta.remaining_wide);
        slack_log2.apply(mfs.slack, meta);
    }
}

// What depends on the egress port and the controller: the urgency, the epoch in force and the idle gap.
control Bias(in bit<9> egress_port, inout metadata_t meta) {
    Urgency() mlu;

    @name(".set_bias")
    action set_bias(wide_code_t bias) {
        meta.bias = bias;
    }

    // Code of each egress port's effective bandwidth B(1 - rho), where rho is the load by traffic that goes first.
    @name(".port_bias")
    table port_bias {
        key = { egress_port : exact @name("egress_port"); }
        actions = { set_bias; }
        default_action = set_bias(0);
        size = EDGE_PORTS;
    }

    @name(".activate")
    action activate(bit<8> epoch, bit<32> idle_gap_us) {
        meta.epoch = epoch;
        meta.idle_gap_us = idle_gap_us;
    }

    // Keyless: its default action selects the set of rmlq entries in force.
    @name(".epoch")
    table epoch {
        actions = { activate; }
        default_action = activate(0, IDLE_GAP_NEVER_US);
        size = 1;
    }

    apply {
        port_bias.apply();
        epoch.apply();
        mlu.apply(meta);
        if (meta.late == 1) {
            meta.slack_code = 0;    // in the key all late packets are equal: how late a flow is does not rank it
        }
    }
}

control Rmlq(in mfs_t mfs, inout metadata_t meta) {
    @name(".set_level")
    action set_level(level_t level) {
        meta.level = (wide_level_t)level;
    }

    // A packet that matches no entry keeps the level of untagged traffic. rli is the relative layer index.
    @name(".rmlq")
    table rmlq {
        key = {
            meta.epoch          : exact @name("epoch");
            mfs.stage           : exact @name("stage");
            meta.late           : range @name("late");
            meta.rli            : range @name("rli");
            meta.urgency        : range @name("urgency");
            meta.slack_code     : range @name("slack_code");
            meta.remaining_code : range @name("remaining_code");
        }
        actions = { set_level; @defaultonly NoAction; }
        default_action = NoAction;
        size = RMLQ_ENTRIES;
    }

    apply {
        rmlq.apply();
    }
}

#endif
