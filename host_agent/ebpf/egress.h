// SPDX-License-Identifier: Apache-2.0
// Outgoing packets: flow, position in the flow, stamp and traffic class.
#pragma once
#include "level.h"
#include "maps.h"
#include "packet.h"

INLINE const u32 *look_up(struct __sk_buff *skb, const struct five_tuple *addresses)
{
    u64 identity = socket_cookie(skb);
    const u32 *index = identity ? map_lookup(&cookies, &identity) : 0;

    if (index)
        return index;
    index = map_lookup(&tuples, addresses);
    if (index)
        return index;
    identity = cgroup_id(skb);
    return identity ? map_lookup(&cgroups, &identity) : 0;
}

// Returns what is known of the socket of a TCP packet; 0 for others.
INLINE struct tcp_socket *socket_of(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_sock *any = packet->transport ? skb->sk : 0, *full = any ? full_socket(any) : 0;

    return full ? socket_storage(&sockets, full, 0, 0) : 0;
}

// Returns the index of a packet's flow + 1, or 0. A socket keeps it until any flow opens or ends.
INLINE u32 flow_of(struct __sk_buff *skb, const struct five_tuple *addresses, struct tcp_socket *socket, u32 epoch)
{
    const struct flow *flow;
    const u32 *index;
    u32 slot;

    if (socket && socket->epoch == epoch)
        return socket->flow;
    index = look_up(skb, addresses);
    slot = index ? *index : 0;
    flow = index ? map_lookup(&flows, &slot) : 0;
    if (socket) {
        socket->flow = flow ? slot + 1 : 0;
        if (flow) {
            socket->batch = flow->batch;
            socket->number = flow->number;
        }
        socket->epoch = epoch;
    }
    return flow ? slot + 1 : 0;
}

INLINE u32 current_layer(u32 batch)
{
    const u32 *layer = batch ? map_lookup(&progress, &batch) : 0;

    return layer ? *layer : 0;
}

// Returns the time at which a packet leaves, on CLOCK_MONOTONIC: TCP notes it, later than now where it paces.
INLINE u64 departure_ns(struct __sk_buff *skb, const struct tcp_socket *socket)
{
    u64 noted = socket ? skb->tstamp : 0;

    return noted ? noted : time_ns();
}

// Returns the time to the deadline in microseconds, rounded down and saturated.
INLINE s32 slack_us(u64 deadline_ns, u64 now_ns)
{
    u64 us;

    if (deadline_ns >= now_ns) {
        us = (deadline_ns - now_ns) / 1000;
        return us > 0x7FFFFFFF ? 0x7FFFFFFF : (s32)us;
    }
    us = (now_ns - deadline_ns + 999) / 1000;
    return us > 0x80000000ULL ? (s32)0x80000000 : (s32)-(s64)us;
}

// Returns the position of a packet in its flow: the payload bytes before it. Counts its payload as sent, except for the
// part that was sent before.
INLINE u64 count_payload(struct state *state, const struct packet *packet, u32 *retransmitted)
{
    u64 position = state->sent_bytes;

    if (packet->addresses.protocol == TCP) {
        u32 end = packet->sequence + packet->payload;
        s32 ahead;

        if (!state->sequence_known) {
            state->next_sequence = packet->sequence;
            state->sequence_known = 1;
        }
        ahead = (s32)(packet->sequence - state->next_sequence);
        if (ahead < 0) {
            u64 back = (u64)-(s64)ahead;

            *retransmitted = 1;
            position = back > position ? 0 : position - back;
        }
        ahead = (s32)(end - state->next_sequence);
        if (ahead > 0) {
            state->sent_bytes += (u32)ahead;
            state->next_sequence = end;
        }
    } else {
        __sync_fetch_and_add(&state->sent_bytes, packet->payload);
    }
    return position;
}

INLINE u32 flags_at(const struct flow *flow, u64 position, u32 payload, u32 retransmitted)
{
    u64 end = position + payload;
    u32 flags = 0;

    if (position < flow->total_bytes && end >= flow->total_bytes)
        flags |= FLAG_LAST;
    // A retransmission starts neither the flow nor a message.
    if (retransmitted)
        return flags;
    if (position == 0)
        return flags | FLAG_FIRST | FLAG_BOUNDARY;
    if (flow->message_bytes) {
        u64 past = position % flow->message_bytes;

        if (past == 0 || past + payload > flow->message_bytes)
            flags |= FLAG_BOUNDARY;
    }
    return flags;
}

// Writes the option into the room that its socket made, which ends the TCP header. Returns 0 without room. The room is NOPs,
// or a blank option, where a program of another version looks at the same sockets.
INLINE int fill_option(struct __sk_buff *skb, const struct packet *packet, const struct stamp *stamp)
{
    union option option = {{TCP_OPTION_KIND, TCP_OPTION_BYTES, NETWORK16(TCP_OPTION_EXPERIMENT), *stamp}}, room;
    u32 offset = packet->transport + packet->header - TCP_OPTION_BYTES;
    u32 filler;
    u64 difference = 0;

    if (packet->header < sizeof(struct tcp) + TCP_OPTION_BYTES || load_bytes(skb, offset, &room, sizeof(room)))
        return 0;
    if (room.words[0] != NOPS && room.words[0] != option.words[0])
        return 0;
    filler = room.words[0] == NOPS ? NOPS : 0;
    for (u32 i = 0; i < TCP_OPTION_BYTES / 4; i++) {
        if (i && room.words[i] != filler)
            return 0;
        difference += option.words[i] + (u64)(u32)~room.words[i];
    }
    difference = (difference & 0xFFFFFFFF) + (difference >> 32);
    difference = (difference & 0xFFFFFFFF) + (difference >> 32);
    if (store_bytes(skb, offset, &option, sizeof(option), 0))
        return 0;
    // The checksum is usually computed later, by the interface; then the helper leaves it alone.
    replace_checksum(skb, packet->transport + CHECKSUM_OFFSET, 0, difference, 0);
    return 1;
}

// The stamp in a TCP option: the interface segments the packet, and copies the option to each segment.
INLINE int stamp_option(struct __sk_buff *skb, struct counters *counters, const struct packet *packet,
                        struct state *state, const struct stamp *stamp)
{
    if (packet->transport && fill_option(skb, packet, stamp)) {
        counters->stamped += 1;
        if (skb->gso_size)
            counters->shared += 1;
        return TC_ACT_OK;
    }
    if (state)
        state->unstamped += 1;
    if (!packet->transport)
        counters->not_tcp += 1;
    else if (packet->header + TCP_OPTION_BYTES > TCP_HEADER_MAX)
        counters->no_room += 1;
    else
        counters->unready += 1;
    return TC_ACT_OK;
}

INLINE int stamp_shim(struct __sk_buff *skb, const struct config *config, struct counters *counters, u32 payload,
                      const struct stamp *stamp)
{
    u32 segment = skb->gso_size, frame = segment ? skb->len - payload + segment : skb->len;
    struct shimmed front = {.type = NETWORK16(ETHERTYPE_MFS), .stamp = *stamp};

    if (segment && !config->share) {
        counters->segmented += 1;
        return TC_ACT_OK;
    }
    if (frame + STAMP_BYTES > config->max_frame) {
        counters->too_long += 1;
        return TC_ACT_OK;
    }
    // The network header stays where it is, so the kernel treats the shim as part of the link header and copies it to
    // each segment.
    if (load_bytes(skb, 0, front.addresses, sizeof(front.addresses)) || change_head(skb, STAMP_BYTES, 0)) {
        counters->failed += 1;
        return TC_ACT_OK;
    }
    store_bytes(skb, 0, &front, sizeof(front), 0);
    counters->stamped += 1;
    if (segment)
        counters->shared += 1;
    return TC_ACT_OK;
}

SECTION("egress") int mfs_egress(struct __sk_buff *skb)
{
    struct packet packet = {};
    struct stamp stamp = {};
    const struct config *config;
    const struct policy *policy;
    struct counters *counters;
    const struct flow *flow = 0;
    struct state *state = 0;
    struct tcp_socket *socket = 0;
    u32 zero = 0, stage = 0, layer, rli, retransmitted = 0, units = 0, level, batch, bank, number;
    s32 slack = 0;

    config = map_lookup(&configs, &zero);
    counters = map_lookup(&counted, &zero);
    // The agent opens or closes a window: a copy of the peer's last acknowledgement, for this host.
    if (config && config->kick_mark && skb->mark == config->kick_mark)
        return redirect(skb->ifindex, BPF_F_INGRESS);
    if (!config || !counters || !parse(skb, &packet))
        return TC_ACT_OK;
    bank = config->bank;
    policy = map_lookup(&policies, &bank);
    if (!policy)
        return TC_ACT_OK;
    if (config->option)
        socket = socket_of(skb, &packet);
    number = flow_of(skb, &packet.addresses, socket, *(volatile u32 *)&config->epoch);
    if (number) {
        u32 slot = number - 1;

        flow = map_lookup(&flows, &slot);
        state = map_lookup(&states, &slot);
        // Without bytes it is one that ends.
        if (!flow || !state || !flow->total_bytes)
            return TC_ACT_OK;
        batch = flow->batch;
        stamp.flow = NETWORK16(flow->number);
        stamp.target_layer = flow->target_layer;
        // A packet without payload acknowledges data, or opens or closes a connection; it belongs to no stage.
        stage = packet.payload ? flow->stage : 0;
    } else {
        const struct peer *peer = socket ? &socket->peer : 0;

        if (!peer || !peer->known)
            peer = map_lookup(&peers, &packet.addresses);
        if (!peer)
            return TC_ACT_OK;
        batch = peer->batch;
        stamp.flow = NETWORK16(peer->number);
        stamp.target_layer = peer->target_layer;
    }
    layer = current_layer(batch);
    if (layer > 0xFF)
        layer = 0xFF;
    rli = stamp.target_layer > layer ? stamp.target_layer - layer : 0;
    if (flow && state) {
        u64 total = flow->total_bytes + flow->beyond_bytes, position, left;

        slack = slack_us(flow->deadline_ns, departure_ns(skb, socket));
        if (flow->pruned && slack > 0)
            slack = 0;
        state->packets += 1;
        if (stage) {
            position = count_payload(state, &packet, &retransmitted);
            left = total > position ? total - position : 0;
            left = (left + REMAINING_UNIT_BYTES - 1) / REMAINING_UNIT_BYTES;
            units = left > 0xFFFFFFFFULL ? 0xFFFFFFFF : (u32)left;
            stamp.flags = flags_at(flow, position, packet.payload, retransmitted);
        }
    }
    level = decide(policy, stage, rli, slack, units);
    if (state && stage) {
        level = ratchet(state->held, level, stamp.flags & FLAG_BOUNDARY);
        state->held = level + 1;
    }
    stamp.version_stage = VERSION << 4 | (stage & 0xF);
    stamp.next_type = config->option ? 0 : NETWORK16(packet.next_type);
    stamp.batch = NETWORK32(batch);
    stamp.current_layer = layer;
    stamp.slack = NETWORK32((u32)slack);
    stamp.remaining = NETWORK32(units);
    level &= LEVELS - 1;
    counters->level_packets[level] += 1;
    counters->level_bytes[level] += skb->len;
    if (config->class_major)
        skb->priority = config->class_major << 16 | (level + 1);
    if (config->option)
        return stamp_option(skb, counters, &packet, state, &stamp);
    return stamp_shim(skb, config, counters, packet.payload, &stamp);
}
