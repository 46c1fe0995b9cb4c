// The ratchet: a flow's level rises only where that cannot reorder a message, and falls only to the scavenger.
//
// It is split into two controls, so that looking up the flow does not wait for the level that is chosen now.
#ifndef MFS_TNA_RATCHET_P4
#define MFS_TNA_RATCHET_P4

#include "../shared/ratchet_rule.p4"
#include "bridge.p4"

control Remember(in bool honoured, in mfs_t mfs, in bit<32> src_addr, in tick_t now, in metadata_t meta, out bit<16> cell,
                 out ratchet_t rule) {
    // The flow that a cell belongs to, as a digest of (batch, flow, source): each host numbers its own flows.
    @name(".ratchet_flow")
    Register<bit<32>, bit<16>>(RATCHET_CELLS, 0) ratchet_flow;
    // Arrival time of its last packet.
    @name(".ratchet_seen")
    Register<tick_t, bit<16>>(RATCHET_CELLS, 0) ratchet_seen;

    Hash<bit<32>>(HashAlgorithm_t.CRC32) digest;
    RatchetRule() ratchet_rule;

    bit<32> identity;
    tick_t  idle_gap;
    tick_t  busy_since;
    bit<1>  known;
    bit<1>  idle;

    RegisterAction<bit<32>, bit<16>, bit<1>>(ratchet_flow) claim = {
        void apply(inout bit<32> held, out bit<1> same) {
            if (held == identity) {
                same = 1;
            } else {
                same = 0;
            }
            held = identity;
        }
    };

    // The clock wraps, so times are compared by the sign of their difference.
    RegisterAction<tick_t, bit<16>, bit<1>>(ratchet_seen) touch = {
        void apply(inout tick_t held, out bit<1> before) {
            if ((int<32>)(held - busy_since) < 0) {
                before = 1;
            } else {
                before = 0;
            }
            held = now;
        }
    };

    // Separate actions, because each takes a stage.
    action convert() {
        idle_gap = TICKS_OF(meta.idle_gap_us);
    }

    action look_back() {
        busy_since = now - idle_gap;
    }

    apply {
        identity = digest.get({ mfs.batch, mfs.flow, src_addr });
        convert();
        look_back();
        cell = identity[15:0];
        if (honoured && mfs.stage != STAGE_NONE) {
            known = claim.execute(cell);
            idle = touch.execute(cell);
        }
        ratchet_rule.apply(mfs, known == 1, idle == 1, rule);
    }
}

control Ratchet(in bool honoured, in mfs_t mfs, in bit<16> cell, in ratchet_t rule, inout metadata_t meta) {
    // The level that the flow has reached.
    @name(".ratchet_level")
    Register<wide_level_t, bit<16>>(RATCHET_CELLS, 0) ratchet_level;

    RegisterAction<wide_level_t, bit<16>, wide_level_t>(ratchet_level) restart = {
        void apply(inout wide_level_t held, out wide_level_t reached) {
            held = meta.level;
            reached = held;
        }
    };

    RegisterAction<wide_level_t, bit<16>, wide_level_t>(ratchet_level) rise = {
        void apply(inout wide_level_t held, out wide_level_t reached) {
            held = max(held, meta.level);
            reached = held;
        }
    };

    RegisterAction<wide_level_t, bit<16>, wide_level_t>(ratchet_level) hold = {
        void apply(inout wide_level_t held, out wide_level_t reached) {
            reached = held;
        }
    };

    apply {
        if (honoured && mfs.stage != STAGE_NONE) {
            if (rule == RATCHET_RESTART || meta.level == (wide_level_t)SCAVENGER) {
                meta.level = restart.execute(cell);
            } else if (rule == RATCHET_RISE) {
                meta.level = rise.execute(cell);
            } else {
                meta.level = hold.execute(cell);
            }
        }
    }
}

#endif
