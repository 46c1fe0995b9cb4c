// The controller's eyes: how urgent packets are as they leave, and with how much slack flows end.
#ifndef MFS_V1MODEL_OBSERVE_P4
#define MFS_V1MODEL_OBSERVE_P4

#include <v1model.p4>
#include "../shared/headers.p4"
#include "../shared/urgency.p4"

control Observe(in bit<9> egress_port, in bit<32> queued_us, inout headers_t hdr, inout metadata_t meta) {
    // Index (egress port, level): what each level sends by each port.
    @name(".port_level")
    counter(PORT_LEVEL_CELLS, CounterType.packets_and_bytes) port_level;
    // Index (stage, level, urgency / 16). Laxity is slack x (1 - MLU), so a bucket of urgency is one of relative
    // laxity: a factor 4 of MLU each, 8 and above cannot make it, 15 is late.
    @name(".laxity")
    counter(LAXITY_CELLS, CounterType.packets_and_bytes) laxity;
    // Index (stage, level, late, octave of |slack|): packets that are the last of their flow.
    @name(".completion")
    counter(COMPLETION_CELLS, CounterType.packets) completion;

    SlackCode() slack_log2;
    Urgency() mlu;

    apply {
        port_level.count((bit<32>)(egress_port ++ meta.level));
        if (hdr.mfs.isValid()) {
            hdr.mfs.slack = hdr.mfs.slack |-| (int<32>)queued_us;
            slack_log2.apply(hdr.mfs.slack, meta.late, meta.slack_code);
            mlu.apply(meta.remaining_code, meta.bias, meta.late, meta.slack_code, meta.urgency);
            laxity.count((bit<32>)(hdr.mfs.stage[1:0] ++ meta.level ++ meta.urgency[7:4]));
            if (hdr.mfs.flags & FLAG_LAST != 0) {
                completion.count((bit<32>)(hdr.mfs.stage[1:0] ++ meta.level ++ meta.late ++ meta.slack_code[7:3]));
            }
        }
    }
}

#endif
