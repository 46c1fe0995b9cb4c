// The ratchet: a flow's level rises only where that cannot reorder a message, and falls only to the scavenger.
#ifndef MFS_V1MODEL_RATCHET_P4
#define MFS_V1MODEL_RATCHET_P4

#include <v1model.p4>
#include "../shared/ratchet_rule.p4"

control Ratchet(in mfs_t mfs, in bit<32> src_addr, in bit<32> now_us, in bit<32> idle_gap_us, inout wide_level_t level) {
    // The flow that a cell belongs to, as a digest of (batch, flow, source): each host numbers its own flows.
    @name(".ratchet_flow")
    register<bit<32>>(RATCHET_CELLS) ratchet_flow;
    // Arrival time of its last packet, microseconds.
    @name(".ratchet_seen")
    register<bit<32>>(RATCHET_CELLS) ratchet_seen;
    // The level that it has reached.
    @name(".ratchet_level")
    register<wide_level_t>(RATCHET_CELLS) ratchet_level;

    RatchetRule() ratchet_rule;

    ratchet_t rule;
    bit<32> identity;
    bit<32> cell;
    bit<32> held_flow;
    bit<32> held_seen;
    wide_level_t held_level;

    apply {
        hash(identity, HashAlgorithm.crc32, 32w0, { mfs.batch, mfs.flow, src_addr }, 64w0x100000000);
        cell = (bit<32>)identity[15:0];
        ratchet_flow.read(held_flow, cell);
        ratchet_seen.read(held_seen, cell);
        ratchet_level.read(held_level, cell);
        ratchet_rule.apply(mfs, held_flow == identity, now_us - held_seen > idle_gap_us, rule);
        if (level != (wide_level_t)SCAVENGER &&
            (rule == RATCHET_HOLD || (rule == RATCHET_RISE && level < held_level))) {
            level = held_level;
        }
        ratchet_flow.write(cell, identity);
        ratchet_seen.write(cell, now_us);
        ratchet_level.write(cell, level);
    }
}

#endif
