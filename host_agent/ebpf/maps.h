// SPDX-License-Identifier: Apache-2.0
// What user space and the programs share: layouts, checked against host_agent through constants.h, and maps.
#pragma once
#include "constants.h"
#include "kernel.h"

#define ETHERNET_BYTES 14
#define TYPE_OFFSET 12
#define TYPE_IPV4 0x0800
#define TYPE_IPV6 0x86DD
#define FRONT_BYTES_MAX 82 // Ethernet, stamp, IPv6, ports
#define TCP 6
#define UDP 17

struct stamp {
    u8 version_stage;
    u8 flags;
    u16 next_type;
    u32 batch;
    u16 flow;
    u8 target_layer;
    u8 current_layer;
    u32 slack;
    u32 remaining;
    u32 reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct stamp) == STAMP_BYTES, "stamp");

// The front of a stamped frame.
struct shimmed {
    u8 addresses[TYPE_OFFSET];
    u16 type;
    struct stamp stamp;
} __attribute__((packed));

// What user space says of a flow. Only user space writes it.
struct flow {
    u64 deadline_ns;      // CLOCK_MONOTONIC
    u64 own_bytes;
    u64 beyond_bytes;
    u64 message_bytes;    // a message starts at each multiple; 0: the flow is one message
    u32 batch;
    u16 number;
    u8 stage;
    u8 target_layer;
    u32 pruned;
    u32 kept;             // for user space alone: outlives the client that opened it
};
_Static_assert(sizeof(struct flow) == FLOW_BYTES, "flow");

// What the egress hook knows of a flow. User space zeroes it when the flow opens.
struct state {
    u64 sent;             // payload bytes, without what was sent again
    u64 packets;
    u32 next_sequence;    // TCP: what follows the last byte of `sent`
    u8 sequence_known;
    u8 level;             // held level + 1; 0 before the first packet
    u16 unused;
};
_Static_assert(sizeof(struct state) == STATE_BYTES, "state");

struct interval {
    u8 low;
    u8 high;
};

struct rule {
    u8 stage;
    u8 level;
    struct interval late, rli, urgency, slack, remaining;
};
_Static_assert(sizeof(struct rule) == RULE_BYTES, "rule");

struct policy {
    u32 count;
    u32 bias;
    u32 unstaged;         // the level where no rule matches
    u32 unused;
    struct rule rules[RULES_MAX];
};
_Static_assert(sizeof(struct policy) == POLICY_BYTES, "policy");

struct config {
    u32 bank;             // the policy in force
    u32 max_frame;        // bytes of the longest frame the link takes, Ethernet header and shim included
    u32 class_major;      // skb->priority becomes the class major:level+1; 0: left alone
    u32 share;            // packets still to be segmented get one stamp, which each of their segments will carry
};
_Static_assert(sizeof(struct config) == CONFIG_BYTES, "config");

struct tuple {
    u32 source[4];        // IPv4: the last word, the others 0
    u32 destination[4];
    u16 source_port;      // network order
    u16 destination_port;
    u8 protocol;
    u8 unused[3];
};
_Static_assert(sizeof(struct tuple) == TUPLE_BYTES, "tuple");

// Who stamped what came in, so that what goes back is stamped with the same batch.
struct peer {
    u32 batch;
    u16 number;
    u8 target_layer;
    u8 unused;
};

struct counters {
    u64 stamped;
    u64 shared;           // of these, still to be segmented: the segments share the stamp
    u64 too_long;         // left without a stamp: the frame would not fit the link
    u64 segmented;        // left without a stamp: still to be segmented
    u64 failed;           // left without a stamp: no room could be made
    u64 removed;          // stamps taken off what came in
    u64 malformed;        // stamps of another version or stage that came in, left alone
    u64 learnt;           // received stamps that told of progress
    u64 level_packets[LEVELS];
    u64 level_bytes[LEVELS];
};
_Static_assert(sizeof(struct counters) == COUNTERS_BYTES, "counters");

struct map {
    u32 type, key_bytes, value_bytes, entries, flags;
};
#define MAP(name, kind, key, value, count) \
    SECTION("maps") struct map name = {kind, sizeof(key), sizeof(value), count, 0}

MAP(flows, BPF_MAP_TYPE_ARRAY, u32, struct flow, FLOWS_MAX);
MAP(states, BPF_MAP_TYPE_ARRAY, u32, struct state, FLOWS_MAX);
MAP(cookies, BPF_MAP_TYPE_HASH, u64, u32, FLOWS_MAX);
MAP(tuples, BPF_MAP_TYPE_HASH, struct tuple, u32, FLOWS_MAX);
MAP(cgroups, BPF_MAP_TYPE_HASH, u64, u32, FLOWS_MAX);
MAP(peers, BPF_MAP_TYPE_LRU_HASH, struct tuple, struct peer, FLOWS_MAX);
MAP(progress, BPF_MAP_TYPE_LRU_HASH, u32, u32, PROGRESS_BATCHES);
MAP(policies, BPF_MAP_TYPE_ARRAY, u32, struct policy, BANKS);
MAP(configs, BPF_MAP_TYPE_ARRAY, u32, struct config, 1);
MAP(counted, BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct counters, 1);
