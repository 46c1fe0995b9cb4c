// Packet headers, and the metadata that the blocks of the pipeline share.
#ifndef MFS_HEADERS_P4
#define MFS_HEADERS_P4

#include "constants.p4"

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

// The stamp: as a shim between Ethernet and what next_type says, or in a TCP option, where next_type is 0.
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
    bit<32> remaining;      // units of 256 bytes, including this packet
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

// The first four bytes of TCP or UDP, which is all that load balancing needs.
header ports_t {
    bit<16> src_port;
    bit<16> dst_port;
}

// The rest of TCP's header without options.
header tcp_t {
    bit<32> sequence;
    bit<32> acknowledged;
    bit<4>  data_offset;    // length of the header, words of 4 bytes
    bit<4>  reserved;
    bit<8>  flags;
    bit<16> window;
    bit<16> checksum;
    bit<16> urgent;
}

// What stands between TCP's header and the option with the stamp.
header tcp_lead_t {
    bit<96> options;
}

// The first bytes of the option with the stamp.
header tcp_option_t {
    bit<8>  kind;
    bit<8>  length;
    bit<16> experiment;
}

// The rest of UDP.
header udp_t {
    bit<16> length;
    bit<16> checksum;
}

// RoCEv2: the Base Transport Header.
header bth_t {
    bit<8>  opcode;
    bit<1>  solicited;
    bit<1>  migration;
    bit<2>  pad_count;
    bit<4>  version;
    bit<16> partition_key;
    bit<8>  reserved_a;
    bit<24> queue_pair;     // of the destination
    bit<1>  acknowledge;
    bit<7>  reserved_b;
    bit<24> sequence;
}

// RoCEv2: the RDMA Extended Transport Header of what begins a WRITE.
header reth_t {
    bit<64> address;
    bit<32> remote_key;
    bit<32> length;         // bytes of the whole message
}

struct headers_t {
    ethernet_t   ethernet;
    mfs_t        mfs;           // the stamp that counts: the shim, a copy of what the option carries, or a registered one
    ipv4_t       ipv4;
    ipv6_t       ipv6;
    ports_t      ports;
    tcp_t        tcp;
    tcp_lead_t   tcp_lead;
    tcp_option_t tcp_option;
    mfs_t        option_stamp;
    udp_t        udp;
    bth_t        bth;
    reth_t       reth;
}

// Input of the equal-cost multipath (ECMP) hash: the five-tuple, with the low 32 bits of IPv6 addresses.
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
    // Edge, from the entry of the ingress port.
    bool        trusted;
    wide_level_t police_floor;  // levels from this one up are metered; 8: none
    wide_level_t police_level;  // level of traffic that exceeds the meter
    // Whether the stamp came in a TCP option.
    bool        by_option;
    // Level choice.
    bit<8>      epoch;
    bit<32>     idle_gap_us;
    wide_code_t bias;
    code_t      remaining_code;
    code_t      slack_code;
    wide_code_t remaining_wide; // the same two codes, for sums
    wide_code_t slack_wide;
    wide_code_t relative;       // remaining - slack
    code_t      urgency;
    bit<8>      rli;            // relative layer index
    bit<1>      late;
    wide_level_t level;
    // RoCEv2.
    rdma_kind_t  rdma_kind;
    rdma_class_t rdma_class;
    bit<4>      rdma_stage;
    bit<1>      starts;         // a message begins with the packet
    bit<1>      ends;           // a message ends with it
    bool        own_source;     // the source address is of the ingress port
    bool        registered;     // the stamp was made up here; it does not leave the switch
    bool        stored;         // a registration that counts
    bool        claimed;        // a registration of a flow that was not known
    fresh_t     fresh;          // what a registration says of its flow
    bool        consumed;       // a registration that ends here
    bit<16>     registration_cell;
    // Egress.
    laxity_t     laxity_cell;
    completion_t completion_cell;
    bool        last_hop;
    bool        blank;
    // For the TCP checksum: what it covers besides the option on Tofino, the option as it came in on v1model.
    bit<16>     tcp_residual;
    bit<224>    option_before;
}

#endif
