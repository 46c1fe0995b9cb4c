// What ingress hands to egress in front of a packet: on Tofino metadata ends with the ingress pipeline.
#ifndef MFS_TNA_BRIDGE_P4
#define MFS_TNA_BRIDGE_P4

#include "../shared/headers.p4"

// Units of 256 ns: whole bytes of the 48-bit nanosecond clock, which are cut out for nothing. Four of them stand for a
// microsecond (docs/tofino.md).
typedef bit<32> tick_t;
#define TICKS_OF(time_us) ((time_us) << 2)
#define US_OF(ticks) ((ticks) >> 2)

header bridge_t {
    wide_level_t level;
    code_t       remaining_code;
    wide_code_t  bias;
    tick_t       arrived;
}

// What the chip counts of a packet's bytes beyond the frame as v1model counts it: everywhere the frame check sequence, in
// egress what ingress put in front.
#define FCS_BYTES 4
#define BRIDGED_FCS_BYTES(hdr) (sizeInBytes(hdr.bridge) + FCS_BYTES)

struct bridged_headers_t {
    bridge_t  bridge;
    headers_t inner;
}

#endif
