// Headers on the wire and the metadata that the blocks of the pipeline hand to each other.
#ifndef MFS_HEADERS_P4
#define MFS_HEADERS_P4

#include "constants.p4"

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

// The MFS shim, 24 bytes between Ethernet and what next_type says.
header mfs_t {
    bit<4>  version;
    bit<4>  stage;
    bit<8>  flags;
    bit<16> next_type;
    bit<32> batch;
    bit<16> flow;
    bit<8>  target_layer;
    bit<8>  current_layer;
    int<32> slack;          // microseconds, signed
    bit<32> remaining;      // units of 256 bytes, this packet included
    bit<32> reserved;
}

header ipv4_t {
    bit<4>  version;
    bit<4>  ihl;
    bit<6>  dscp;
    bit<2>  ecn;
    bit<16> total_len;
    bit<16> identification;
    bit<3>  flags;
    bit<13> fragment_offset;
    bit<8>  ttl;
    bit<8>  protocol;
    bit<16> checksum;
    bit<32> src_addr;
    bit<32> dst_addr;
}

header ipv6_t {
    bit<4>   version;
    bit<6>   dscp;
    bit<2>   ecn;
    bit<20>  flow_label;
    bit<16>  payload_length;
    bit<8>   next_header;
    bit<8>   hop_limit;
    bit<128> src_addr;
    bit<128> dst_addr;
}

// The first four bytes of TCP and of UDP: all that load balancing needs.
header ports_t {
    bit<16> src_port;
    bit<16> dst_port;
}

struct headers_t {
    ethernet_t ethernet;
    mfs_t      mfs;
    ipv4_t     ipv4;
    ipv6_t     ipv6;
    ports_t    ports;
}

// What ECMP hashes: the five-tuple, IPv6 addresses by their low halves.
struct path_key_t {
    bit<32> src_addr;
    bit<32> dst_addr;
    bit<8>  protocol;
    bit<16> src_port;
    bit<16> dst_port;
}

struct metadata_t {
    path_key_t  path;
    bit<16>     next_hop_group;
    bool        routed;
    bool        bad_checksum;
    discard_reason_t discard_reason;
    // Edge: what the ingress port's entry says.
    bool        trusted;
    wide_level_t police_floor;  // levels from here up are metered; 8 meters nothing
    wide_level_t police_level;  // the level of what exceeds the meter
    // Level choice.
    bit<8>      epoch;
    bit<32>     idle_gap_us;
    wide_code_t bias;
    code_t      remaining_code;
    code_t      slack_code;
    wide_code_t remaining_wide; // the same two for sums
    wide_code_t slack_wide;
    wide_code_t relative;       // remaining - slack
    code_t      urgency;
    bit<8>      rli;
    bit<1>      late;
    wide_level_t level;
    // Egress.
    laxity_t     laxity_cell;
    completion_t completion_cell;
    bool        last_hop;
}

#endif
