// SPDX-License-Identifier: Apache-2.0
// The stamp in network byte order, and the maps. The keys and values shared with user space are in layout.h.
#pragma once
#include "layout.h"

#define ETHERNET_BYTES 14
#define TYPE_OFFSET 12
#define FRONT_BYTES_MAX 82 // Ethernet, stamp, IPv6, ports

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

// Start of a stamped frame.
struct shimmed {
    u8 addresses[TYPE_OFFSET];
    u16 type;
    struct stamp stamp;
} __attribute__((packed));

// The same bytes once the stamp is replaced by VLAN tags, and the type that follows them.
struct tags {
    struct {
        u16 type, tag;
    } tags[STAMP_BYTES / 4];
    u16 type;
} __attribute__((packed));
_Static_assert(sizeof(struct tags) == sizeof(u16) + STAMP_BYTES, "tags");

// The TCP option that carries a stamp, and the room for it: as many NOPs.
union option {
    struct {
        u8 kind, length;
        u16 experiment;
        struct stamp stamp;
    } __attribute__((packed));
    u32 words[TCP_OPTION_BYTES / 4];
};
_Static_assert(sizeof(union option) == TCP_OPTION_BYTES, "option");
#define NOPS 0x01010101

// Sender of stamped packets. The key is the addresses of the replies, which are stamped with the same batch.
struct peer {
    u32 batch;
    u16 number;
    u8 target_layer;
    u8 known;                 // 0: nothing is known yet
};

// What is known of a TCP socket whose packets the program for sockets sees.
struct tcp_socket {
    u32 epoch;                // as in struct config, when the egress hook looked its flow up
    u32 flow;                 // index of its flow + 1; 0: none
    u32 batch;                // of its flow
    u16 number;
    u8 room;                  // TCP's segments leave room for the option
    u8 home;                  // its addresses are of the interface's network namespace
    struct peer peer;         // the sender of the options that it receives
};

struct map {
    u32 type, key_bytes, value_bytes, entries, flags;
};
#define MAP_WITH(name, kind, key, value, count, flags) \
    SECTION("maps") struct map name = {kind, sizeof(key), sizeof(value), count, flags}
#define MAP(name, kind, key, value, count) MAP_WITH(name, kind, key, value, count, 0)

MAP(flows, BPF_MAP_TYPE_ARRAY, u32, struct flow, FLOWS_MAX);
MAP_WITH(states, BPF_MAP_TYPE_ARRAY, u32, struct state, FLOWS_MAX, BPF_F_MMAPABLE);
MAP_WITH(holds, BPF_MAP_TYPE_ARRAY, u32, struct hold, FLOWS_MAX, BPF_F_MMAPABLE);
// The key is the addresses of what this host sends.
MAP(connections, BPF_MAP_TYPE_LRU_HASH, struct five_tuple, struct connection, CONNECTIONS_MAX);
MAP(cookies, BPF_MAP_TYPE_HASH, u64, u32, FLOWS_MAX);
MAP(tuples, BPF_MAP_TYPE_HASH, struct five_tuple, u32, FLOWS_MAX);
MAP(cgroups, BPF_MAP_TYPE_HASH, u64, u32, FLOWS_MAX);
// The kernel keeps a value with each socket.
MAP_WITH(sockets, BPF_MAP_TYPE_SK_STORAGE, int, struct tcp_socket, 0, BPF_F_NO_PREALLOC);
MAP(peers, BPF_MAP_TYPE_LRU_HASH, struct five_tuple, struct peer, FLOWS_MAX);
MAP(progress, BPF_MAP_TYPE_LRU_HASH, u32, u32, PROGRESS_BATCHES);
MAP(policies, BPF_MAP_TYPE_ARRAY, u32, struct policy, BANKS);
MAP(configs, BPF_MAP_TYPE_ARRAY, u32, struct config, 1);
MAP(counted, BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct counters, 1);
