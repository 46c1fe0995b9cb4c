// The controller's eyes: how urgent packets are as they leave, and with how much slack flows end.
#ifndef MFS_TNA_OBSERVE_P4
#define MFS_TNA_OBSERVE_P4

#include "../shared/aged.p4"
#include "bridge.p4"

control Observe(in PortId_t egress_port, in bit<32> queued_us, inout bridged_headers_t hdr, inout metadata_t meta) {
    // What each level sends by each port.
    @name(".port_level")
    Counter<bit<64>, port_level_t>(PORT_LEVEL_CELLS, CounterType_t.PACKETS_AND_BYTES) port_level;
    // How urgent stamped packets are as they leave, by stage and level.
    @name(".laxity")
    Counter<bit<64>, laxity_t>(LAXITY_CELLS, CounterType_t.PACKETS_AND_BYTES) laxity;
    // With how much slack flows end, or how late: their last packets.
    @name(".completion")
    Counter<bit<32>, completion_t>(COMPLETION_CELLS, CounterType_t.PACKETS) completion;

    Aged() aged;

    apply {
        port_level.count(egress_port ++ meta.level[2:0], BRIDGED_FCS_BYTES(hdr));
        if (hdr.inner.mfs.isValid()) {
            aged.apply(queued_us, hdr.inner.mfs, meta);
            laxity.count(meta.laxity_cell, BRIDGED_FCS_BYTES(hdr));
            if (hdr.inner.mfs.flags & FLAG_LAST != 0) {
                completion.count(meta.completion_cell);
            }
        }
    }
}

#endif
