// The header that carries metadata from ingress to egress in front of a packet: on Tofino, metadata ends with ingress.
#ifndef MFS_TNA_BRIDGE_P4
#define MFS_TNA_BRIDGE_P4

#include "../shared/headers.p4"

// Time in units of 256 ns: whole bytes of the 48-bit nanosecond clock, which cost nothing to extract. Four units count
// as a microsecond (docs/reference/tofino.md).
typedef bit<32> tick_t;
#define TICKS_OF(time_us) ((time_us) << 2)
#define US_OF(ticks) ((ticks) >> 2)

// What ingress found out about a stamp in a TCP option. Its bytes are the same on both sides: egress writes them.
typedef bit<8> carried_t;
const carried_t CARRIED_NOT = 0;      // no option, or one that is not honoured
const carried_t CARRIED_STAMP = 1;    // the option's stamp counts
const carried_t CARRIED_ERASE = 2;    // the option came in by an untrusted port

header bridge_t {
    wide_level_t level;
    code_t       remaining_code;
    wide_code_t  bias;
    tick_t       arrived;
    carried_t    carried;
    bit<8>       current_layer;
    bit<8>       registered;    // 1: the stamp was made up in ingress
}

// Bytes that the chip counts beyond the length that v1model counts: the frame check sequence, and in egress also the
// bridge header.
#define FCS_BYTES 4
#define BRIDGED_FCS_BYTES(hdr) (sizeInBytes(hdr.bridge) + FCS_BYTES)

struct bridged_headers_t {
    bridge_t  bridge;
    headers_t inner;
}

#endif
