// SPDX-License-Identifier: Apache-2.0
// TCP sockets of a cgroup: makes room for the option in the headers of connections that are stamped, and reads the
// options of received packets. TCP subtracts the room from its segments; the egress hook writes the stamp into it.
#pragma once
#include "ingress.h"
#include "maps.h"
#include "packet.h"

#define NO_OPTION -42 // ENOMSG
#define FIELD(operation, name) (*(volatile u32 *)&(operation)->name)

// Reads the addresses of what a connection sends, as its packets show them; returns 0 if they are unknown.
INLINE int endpoints(struct bpf_sock_ops *operation, struct five_tuple *ends)
{
    u32 family = FIELD(operation, family);

    if (family == FAMILY_IPV6) {
        ends->source[0] = FIELD(operation, local_ip6[0]);
        ends->source[1] = FIELD(operation, local_ip6[1]);
        ends->source[2] = FIELD(operation, local_ip6[2]);
        ends->source[3] = FIELD(operation, local_ip6[3]);
        ends->destination[0] = FIELD(operation, remote_ip6[0]);
        ends->destination[1] = FIELD(operation, remote_ip6[1]);
        ends->destination[2] = FIELD(operation, remote_ip6[2]);
        ends->destination[3] = FIELD(operation, remote_ip6[3]);
        // IPv4 in a socket for both (RFC 4291, section 2.5.5.2).
        if (!ends->destination[0] && !ends->destination[1] && ends->destination[2] == NETWORK32(0xFFFF)) {
            ends->source[2] = 0;
            ends->destination[2] = 0;
        }
    } else if (family == FAMILY_IPV4) {
        ends->source[3] = FIELD(operation, local_ip4);
        ends->destination[3] = FIELD(operation, remote_ip4);
    } else {
        return 0;
    }
    ends->source_port = NETWORK16((u16)FIELD(operation, local_port));
    ends->destination_port = (u16)(FIELD(operation, remote_port) >> 16);
    ends->protocol = TCP;
    return 1;
}

// Returns what is known of the socket; 0 where there is no memory for it, or no socket yet.
INLINE struct tcp_socket *known(struct bpf_sock_ops *operation, const struct config *config)
{
    struct tcp_socket *socket, fresh = {};
    struct bpf_sock *full = operation->sk;

    if (!full)
        return 0;
    socket = socket_storage(&sockets, full, 0, 0);
    if (socket)
        return socket;
    // Addresses mean something only where the interface is; a cookie names one socket of all namespaces.
    fresh.home = !config->namespace || namespace_cookie(operation) == config->namespace;
    return socket_storage(&sockets, full, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

// Returns whether the packets of a socket are stamped.
INLINE u32 stamped(struct bpf_sock_ops *operation, const struct config *config, const struct tcp_socket *socket)
{
    u32 looked_up = socket->epoch == *(volatile u32 *)&config->epoch;
    struct five_tuple ends = {};
    const struct flow *flow;
    u32 slot;
    u64 cookie;

    if (socket->peer.known)
        return 1;
    if (looked_up && socket->flow)
        return 1;
    if (!looked_up) {
        cookie = socket_cookie(operation);
        if (map_lookup(&cookies, &cookie))
            return 1;
        // Only the egress hook can tell a flow by its cgroup.
        slot = socket->flow - 1;
        flow = socket->flow ? map_lookup(&flows, &slot) : 0;
        if (flow && flow->total_bytes && flow->batch == socket->batch && flow->number == socket->number)
            return 1;
    }
    if (!socket->home || !endpoints(operation, &ends))
        return 0;
    return (!looked_up && map_lookup(&tuples, &ends)) || map_lookup(&peers, &ends);
}

// Asks TCP for room. A segment gets it only if TCP has counted it into the size of the connection's segments: a flow may
// be opened, or a block of selective acknowledgement go, between both, and the packet would become too long.
INLINE void make_room(struct bpf_sock_ops *operation, const struct config *config)
{
    u32 sizing = FIELD(operation, args[0]) == BPF_WRITE_HDR_TCP_CURRENT_MSS;
    struct tcp_socket *socket;
    long refused = 1;

    if (!sizing && (FIELD(operation, skb_tcp_flags) & TCP_SYN))
        return;
    socket = known(operation, config);
    if (!socket || (!sizing && !socket->room && FIELD(operation, skb_len)))
        return;
    // Refused where other options leave no room; the egress hook counts those packets.
    if (stamped(operation, config, socket))
        refused = reserve_option(operation, TCP_OPTION_BYTES, 0);
    if (sizing)
        socket->room = !refused;
}

// Returns the option that ends a received TCP header, if it is the stamp's.
INLINE const union option *option_of(struct bpf_sock_ops *operation)
{
    const void *start = (void *)(long)operation->skb_data, *end = (void *)(long)operation->skb_data_end;
    const struct tcp *tcp = start;
    const union option *option;
    u32 header;

    if ((const void *)(tcp + 1) > end)
        return 0;
    header = (tcp->offset >> 4) * 4;
    if (header < sizeof(*tcp) + TCP_OPTION_BYTES)
        return 0;
    option = start + (header - TCP_OPTION_BYTES);
    if ((const void *)(option + 1) > end || option->kind != TCP_OPTION_KIND || option->length != TCP_OPTION_BYTES ||
        option->experiment != NETWORK16(TCP_OPTION_EXPERIMENT))
        return 0;
    return option;
}

// Returns whether a received TCP header has an option that is the stamp's by kind and experiment, of whatever length.
INLINE u32 has_misfit(struct bpf_sock_ops *operation)
{
    // Searched by kind, length of what is searched, and experiment.
    union option found = {{TCP_OPTION_KIND, 4, NETWORK16(TCP_OPTION_EXPERIMENT)}};

    return load_option(operation, &found, sizeof(found), 0) != NO_OPTION;
}

INLINE void read_option(struct bpf_sock_ops *operation, const struct config *config)
{
    const union option *option = option_of(operation);
    struct tcp_socket *socket = known(operation, config);
    struct counters *counters;
    u32 zero = 0, batch;

    counters = map_lookup(&counted, &zero);
    if (!counters || !socket || !socket->home)
        return;
    if (!option) {
        counters->malformed += has_misfit(operation);
        return;
    }
    // A blank option is room that nobody filled.
    if (!option->stamp.version_stage || !valid(&option->stamp, counters))
        return;
    counters->read += 1;
    batch = NETWORK32(option->stamp.batch);
    if (batch)
        learn(batch, option->stamp.current_layer, counters);
    if (option->stamp.version_stage & 0xF)
        socket->peer = peer_of(&option->stamp);
}

SECTION("sock_ops") int mfs_sock_ops(struct bpf_sock_ops *operation)
{
    u32 zero = 0, wanted = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;
    const struct config *config;
    u32 kind = FIELD(operation, op);

    // TCP fills room into which nothing is written with NOPs.
    if (kind == BPF_SOCK_OPS_WRITE_HDR_OPT_CB)
        return 1;
    config = map_lookup(&configs, &zero);
    if (!config || !config->option)
        return 1;
    switch (kind) {
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
        set_callbacks(operation, FIELD(operation, bpf_sock_ops_cb_flags) | wanted);
        break;
    case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
        make_room(operation, config);
        break;
    case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
        read_option(operation, config);
        break;
    }
    return 1;
}
