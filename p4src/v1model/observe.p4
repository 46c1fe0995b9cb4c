// Counters for the controller: how urgent packets are when they leave, and how much slack flows have when they end.
#ifndef MFS_V1MODEL_OBSERVE_P4
#define MFS_V1MODEL_OBSERVE_P4

#include <v1model.p4>
#include "../shared/aged.p4"

control Observe(in bit<9> egress_port, in bit<32> queued_us, inout headers_t hdr, inout metadata_t meta) {
    // Traffic of each level on each egress port.
    @name(".port_level")
    counter(PORT_LEVEL_CELLS, CounterType.packets_and_bytes) port_level;
    // Stamped packets by stage, level and urgency when they leave.
    @name(".laxity")
    counter(LAXITY_CELLS, CounterType.packets_and_bytes) laxity;
    // Last packets of flows by stage, level and slack, or lateness.
    @name(".completion")
    counter(COMPLETION_CELLS, CounterType.packets) completion;

    Aged() aged;

    apply {
        port_level.count((bit<32>)(port_level_t)(egress_port ++ meta.level[2:0]));
        if (hdr.mfs.isValid()) {
            aged.apply(queued_us, hdr.mfs, meta);
            // A registration is no packet of its flow.
            if (hdr.mfs.flags & FLAG_REGISTER == 0) {
                laxity.count((bit<32>)meta.laxity_cell);
                if (hdr.mfs.flags & FLAG_LAST != 0) {
                    completion.count((bit<32>)meta.completion_cell);
                }
            }
        }
    }
}

#endif
