// Decides what happens to the level that a flow has reached, unless the flow falls to the scavenger: restart at the
// level just chosen, rise to it, or hold.
#ifndef MFS_RATCHET_RULE_P4
#define MFS_RATCHET_RULE_P4

#include "headers.p4"

control RatchetRule(in mfs_t mfs, in bool known, in bool idle, out ratchet_t rule) {
    apply {
        if (!known || mfs.flags & FLAG_FIRST != 0) {
            rule = RATCHET_RESTART;
        } else if (mfs.flags & FLAG_BOUNDARY != 0 || idle) {
            rule = RATCHET_RISE;
        } else {
            rule = RATCHET_HOLD;
        }
    }
}

#endif
