// SPDX-License-Identifier: Apache-2.0
// Received packets: reads and removes the stamp, and lowers windows of held flows, on the driver's XDP hook or on the ingress hook of tc.
#pragma once
#include "hold.h"
#include "maps.h"
#include "packet.h"

INLINE void learn(u32 batch, u32 layer, struct counters *counters)
{
    const u32 *known = map_lookup(&progress, &batch);

    if (known ? layer > *known : layer > 0) {
        map_update(&progress, &batch, &layer, BPF_ANY);
        counters->learnt += 1;
    }
}

// Returns whether a received stamp is of this version and a known stage.
INLINE int valid(const struct stamp *stamp, struct counters *counters)
{
    if (stamp->version_stage >> 4 == VERSION && (stamp->version_stage & 0xF) <= STAGE_MAX)
        return 1;
    counters->malformed += 1;
    return 0;
}

INLINE struct peer peer_of(const struct stamp *stamp)
{
    return (struct peer){NETWORK32(stamp->batch), NETWORK16(stamp->flow), stamp->target_layer, 1};
}

// Remembers the sender of stamped data: replies to it carry the same batch.
INLINE void remember(const struct stamp *stamp, const struct five_tuple *answers)
{
    struct peer peer = peer_of(stamp);
    const struct peer *known = map_lookup(&peers, answers);

    if (!known || known->batch != peer.batch || known->number != peer.number)
        map_update(&peers, answers, &peer, BPF_ANY);
}

// Learns the progress of a received frame's batch, and the frame's sender. Returns the stamp's next_type in network order,
// or 0 if the frame has no valid stamp.
INLINE u16 received(const void *start, const void *end, struct counters *counters)
{
    const struct shimmed *front = start;
    const struct stamp *stamp = &front->stamp;
    struct five_tuple answers = {};
    u32 batch;

    if ((const void *)(front + 1) > end || front->type != NETWORK16(ETHERTYPE_MFS))
        return 0;
    if (!valid(stamp, counters))
        return 0;
    batch = NETWORK32(stamp->batch);
    if (batch)
        learn(batch, stamp->current_layer, counters);
    if ((stamp->version_stage & 0xF) && !(stamp->flags & FLAG_REGISTER) &&
        reversed(front + 1, end, NETWORK16(stamp->next_type), &answers))
        remember(stamp, &answers);
    return stamp->next_type;
}

// A registration tells of its batch, and is for nobody else: its packet is no packet of RDMA.
INLINE u32 is_registration(const void *start, const void *end)
{
    const struct shimmed *front = start;

    return (const void *)(front + 1) <= end && front->stamp.flags & FLAG_REGISTER;
}

// The driver's XDP hook.
SECTION("xdp_ingress") int mfs_xdp_ingress(struct xdp_md *context)
{
    void *start = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    struct counters *counters;
    u8 addresses[TYPE_OFFSET];
    u32 zero = 0;
    u16 next_type;

    counters = map_lookup(&counted, &zero);
    if (!counters || start + ETHERNET_BYTES > end)
        return XDP_PASS;
    __builtin_memcpy(addresses, start, sizeof(addresses));
    next_type = received(start, end, counters);
    if (!next_type) {
        hold_frame(start, end, counters);
        return XDP_PASS;
    }
    if (is_registration(start, end))
        return XDP_DROP;
    if (adjust_head(context, STAMP_BYTES))
        return XDP_PASS;
    start = (void *)(long)context->data;
    end = (void *)(long)context->data_end;
    if (start + ETHERNET_BYTES > end)
        return XDP_DROP;
    __builtin_memcpy(start, addresses, sizeof(addresses));
    *(u16 *)(start + TYPE_OFFSET) = next_type;
    counters->removed += 1;
    hold_frame(start, end, counters);
    return XDP_PASS;
}

// The ingress hook of tc where flows are held, which concerns packets without a stamp too. It takes two passes, because the kernel removes bytes only from IP
// packets: the first pass restores the EtherType and redirects the packet to the ingress of the same interface; the
// second removes the stamp and lets the filters of other programs run.
_Static_assert(VERSION != 4 && VERSION != 6, "the second pass must tell a stamp from an IP header");

SECTION("tc_ingress") int mfs_tc_ingress(struct __sk_buff *skb)
{
    u32 type = NETWORK16((u16)skb->protocol), zero = 0, most = FRONT_BYTES_MAX;
    struct counters *counters;
    const struct config *config;
    u16 next_type;

    // A window that the agent opens or closes is not the peer's.
    config = map_lookup(&configs, &zero);
    if (config && config->kick_mark && skb->mark == config->kick_mark) {
        skb->mark = 0;
        return TC_ACT_UNSPEC;
    }
    if (type == TYPE_IPV4 || type == TYPE_IPV6) {
        u8 first = 0;

        if (load_bytes(skb, ETHERNET_BYTES, &first, sizeof(first)))
            return TC_ACT_UNSPEC;
        if (first >> 4 == VERSION &&
            adjust_room(skb, -STAMP_BYTES, BPF_ADJ_ROOM_MAC, skb->gso_size ? BPF_F_ADJ_ROOM_FIXED_GSO : 0))
            return TC_ACT_SHOT;
        hold_packet(skb);
        return TC_ACT_UNSPEC;
    }
    if (type != ETHERTYPE_MFS)
        return TC_ACT_UNSPEC;
    counters = map_lookup(&counted, &zero);
    if (!counters)
        return TC_ACT_UNSPEC;
    pull_data(skb, skb->len < most ? skb->len : most);
    next_type = received((void *)(long)skb->data, (void *)(long)skb->data_end, counters);
    if (next_type != NETWORK16(TYPE_IPV4) && next_type != NETWORK16(TYPE_IPV6))
        return TC_ACT_UNSPEC;
    if (is_registration((void *)(long)skb->data, (void *)(long)skb->data_end))
        return TC_ACT_SHOT;
    if (store_bytes(skb, TYPE_OFFSET, &next_type, sizeof(next_type), BPF_F_RECOMPUTE_CSUM))
        return TC_ACT_UNSPEC;
    counters->removed += 1;
    return redirect(skb->ifindex, BPF_F_INGRESS);
}

// The ingress hook of tc otherwise: a filter of the stamp's EtherType, so that no other packet runs it. The kernel removes
// bytes only from IP packets, and VLAN tags from any, 4 bytes each: the stamp becomes tags. A packet counts as tagged
// once it is pushed a second one; the first is kept beside the frame, not in it.
SECTION("tc_strip") int mfs_tc_strip(struct __sk_buff *skb)
{
    u32 zero = 0, most = FRONT_BYTES_MAX;
    struct counters *counters;
    struct tags tags;

    counters = map_lookup(&counted, &zero);
    if (!counters)
        return TC_ACT_UNSPEC;
    pull_data(skb, skb->len < most ? skb->len : most);
    tags.type = received((void *)(long)skb->data, (void *)(long)skb->data_end, counters);
    if (tags.type != NETWORK16(TYPE_IPV4) && tags.type != NETWORK16(TYPE_IPV6))
        return TC_ACT_UNSPEC;
    if (is_registration((void *)(long)skb->data, (void *)(long)skb->data_end))
        return TC_ACT_SHOT;
    for (u32 i = 0; i < STAMP_BYTES / 4; i++) {
        tags.tags[i].type = NETWORK16(TYPE_VLAN);
        tags.tags[i].tag = 0;
    }
    if (store_bytes(skb, TYPE_OFFSET, &tags, sizeof(tags), BPF_F_RECOMPUTE_CSUM))
        return TC_ACT_SHOT;
    if (push_tag(skb, NETWORK16(TYPE_VLAN), 1) || push_tag(skb, NETWORK16(TYPE_VLAN), 1))
        return TC_ACT_SHOT;
    for (u32 i = 0; i < STAMP_BYTES / 4 + 2; i++)
        if (pop_tag(skb))
            return TC_ACT_SHOT;
    counters->removed += 1;
    return TC_ACT_UNSPEC;
}
