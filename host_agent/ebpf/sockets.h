// SPDX-License-Identifier: Apache-2.0
// TCP sockets of a cgroup: makes room for the option in the headers of connections that are stamped, and reads the
// options of received packets. TCP subtracts the room from its segments; the egress hook writes the stamp into it.
#pragma once
#include "ingress.h"
#include "maps.h"
#include "packet.h"

#define FIELD(operation, name) (*(volatile u32 *)&(operation)->name)

// Reads the addresses of what a connection sends, as its packets show them; returns 0 if they are unknown.
INLINE int endpoints(struct bpf_sock_ops *socket, struct five_tuple *ends)
{
    u32 family = FIELD(socket, family);

    if (family == FAMILY_IPV6) {
        ends->source[0] = FIELD(socket, local_ip6[0]);
        ends->source[1] = FIELD(socket, local_ip6[1]);
        ends->source[2] = FIELD(socket, local_ip6[2]);
        ends->source[3] = FIELD(socket, local_ip6[3]);
        ends->destination[0] = FIELD(socket, remote_ip6[0]);
        ends->destination[1] = FIELD(socket, remote_ip6[1]);
        ends->destination[2] = FIELD(socket, remote_ip6[2]);
        ends->destination[3] = FIELD(socket, remote_ip6[3]);
        // IPv4 in a socket for both (RFC 4291, section 2.5.5.2).
        if (!ends->destination[0] && !ends->destination[1] && ends->destination[2] == NETWORK32(0xFFFF)) {
            ends->source[2] = 0;
            ends->destination[2] = 0;
        }
    } else if (family == FAMILY_IPV4) {
        ends->source[3] = FIELD(socket, local_ip4);
        ends->destination[3] = FIELD(socket, remote_ip4);
    } else {
        return 0;
    }
    ends->source_port = NETWORK16((u16)FIELD(socket, local_port));
    ends->destination_port = (u16)(FIELD(socket, remote_port) >> 16);
    ends->protocol = TCP;
    return 1;
}

// Addresses mean something only where the interface is; a cookie names one socket of all namespaces.
INLINE int at_home(struct bpf_sock_ops *socket, const struct config *config)
{
    return !config->namespace || namespace_cookie(socket) == config->namespace;
}

INLINE u8 *room_of_flow(u32 slot)
{
    const struct flow *flow = map_lookup(&flows, &slot);
    struct state *state = map_lookup(&states, &slot);

    return flow && state && flow->total_bytes ? &state->room : 0;
}

// Returns where it is noted that a connection's segments leave room for the option; 0 if its packets are not stamped.
INLINE u8 *room_of(struct bpf_sock_ops *socket, const struct config *config)
{
    struct five_tuple ends = {};
    const struct member *member;
    u64 cookie = socket_cookie(socket);
    const u32 *index = map_lookup(&cookies, &cookie);
    struct peer *peer;

    if (index)
        return room_of_flow(*index);
    member = map_lookup(&members, &cookie);
    if (member) {
        u32 slot = member->slot;
        const struct flow *flow = map_lookup(&flows, &slot);

        if (flow && flow->batch == member->batch && flow->number == member->number)
            return room_of_flow(slot);
    }
    if (!at_home(socket, config) || !endpoints(socket, &ends))
        return 0;
    index = map_lookup(&tuples, &ends);
    if (index)
        return room_of_flow(*index);
    peer = map_lookup(&peers, &ends);
    return peer ? &peer->room : 0;
}

// Asks TCP for room. A segment gets it only once TCP has counted it into the size of the connection's segments: a flow
// may be opened between both, and the packet would become too long.
INLINE void make_room(struct bpf_sock_ops *socket, const struct config *config)
{
    u32 sizing = FIELD(socket, args[0]) == BPF_WRITE_HDR_TCP_CURRENT_MSS;
    u8 *room;

    if (!sizing && (FIELD(socket, skb_tcp_flags) & TCP_SYN))
        return;
    room = room_of(socket, config);
    if (!room)
        return;
    if (sizing)
        *room = 1;
    else if (!*room && FIELD(socket, skb_len))
        return;
    // Fails where other options leave no room; the egress hook counts those packets.
    reserve_option(socket, TCP_OPTION_BYTES, 0);
}

INLINE void read_option(struct bpf_sock_ops *socket, const struct config *config)
{
    // Searched by kind, length of what is searched, and experiment.
    struct option option = {TCP_OPTION_KIND, 4, NETWORK16(TCP_OPTION_EXPERIMENT)};
    struct five_tuple answers = {};
    struct counters *counters;
    u32 zero = 0, batch;

    counters = map_lookup(&counted, &zero);
    if (!counters || !at_home(socket, config) || load_option(socket, &option, sizeof(option), 0) != sizeof(option))
        return;
    // Nothing was written into it.
    if (!option.stamp.version_stage || !valid(&option.stamp, counters))
        return;
    counters->read += 1;
    batch = NETWORK32(option.stamp.batch);
    if (batch)
        learn(batch, option.stamp.current_layer, counters);
    if ((option.stamp.version_stage & 0xF) && endpoints(socket, &answers))
        remember(&option.stamp, &answers);
}

SECTION("sock_ops") int mfs_sock_ops(struct bpf_sock_ops *socket)
{
    const struct option empty = {TCP_OPTION_KIND, TCP_OPTION_BYTES, NETWORK16(TCP_OPTION_EXPERIMENT)};
    const struct config *config;
    u32 zero = 0, wanted = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;

    config = map_lookup(&configs, &zero);
    if (!config || !config->option)
        return 1;
    switch (FIELD(socket, op)) {
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
        set_callbacks(socket, FIELD(socket, bpf_sock_ops_cb_flags) | wanted);
        break;
    case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
        make_room(socket, config);
        break;
    case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
        store_option(socket, &empty, sizeof(empty), 0);
        break;
    case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
        read_option(socket, config);
        break;
    }
    return 1;
}
