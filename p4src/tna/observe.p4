// Counters for the controller: how urgent packets are when they leave, and how much slack flows have when they end.
#ifndef MFS_TNA_OBSERVE_P4
#define MFS_TNA_OBSERVE_P4

#include "../shared/aged.p4"
#include "bridge.p4"

control Observe(in PortId_t egress_port, in bit<32> queued_us, inout bridged_headers_t hdr, inout metadata_t meta) {
    // Traffic of each level on each egress port.
    @name(".port_level")
    Counter<bit<64>, port_level_t>(PORT_LEVEL_CELLS, CounterType_t.PACKETS_AND_BYTES) port_level;
    // Stamped packets by stage, level and urgency when they leave.
    @name(".laxity")
    Counter<bit<64>, laxity_t>(LAXITY_CELLS, CounterType_t.PACKETS_AND_BYTES) laxity;
    // Last packets of flows by stage, level and slack, or lateness.
    @name(".completion")
    Counter<bit<32>, completion_t>(COMPLETION_CELLS, CounterType_t.PACKETS) completion;

    Aged() aged;

    apply {
        port_level.count(egress_port ++ meta.level[2:0], BRIDGED_FCS_BYTES(hdr));
        if (hdr.inner.mfs.isValid()) {
            aged.apply(queued_us, hdr.inner.mfs, meta);
            // A registration is no packet of its flow.
            if (hdr.inner.mfs.flags & FLAG_REGISTER == 0) {
                laxity.count(meta.laxity_cell, BRIDGED_FCS_BYTES(hdr));
                if (hdr.inner.mfs.flags & FLAG_LAST != 0) {
                    completion.count(meta.completion_cell);
                }
            }
        }
    }
}

#endif
