// Egress part of a stamped packet: subtracts the time queued from its slack, recomputes slack code and urgency, and
// derives its cells in the controller's counters.
#ifndef MFS_AGED_P4
#define MFS_AGED_P4

#include "urgency.p4"

control Aged(in bit<32> queued_us, inout mfs_t mfs, inout metadata_t meta) {
    SlackCode() slack_log2;
    Urgency() mlu;

    apply {
        mfs.slack = mfs.slack |-| (int<32>)queued_us;
        slack_log2.apply(mfs.slack, meta);
        mlu.apply(meta);
        meta.laxity_cell = mfs.stage[1:0] ++ meta.level[2:0] ++ meta.urgency[7:4];
        meta.completion_cell = mfs.stage[1:0] ++ meta.level[2:0] ++ meta.late ++ meta.slack_code[7:3];
    }
}

#endif
