// SPDX-License-Identifier: Apache-2.0
// Stamps, levels and progress in the kernel: the hooks of an interface: egress (tc clsact), ingress (XDP, or clsact).
//
// Sizes, offsets and numbers come from constants.h, which is generated from host_agent (python -m host_agent.ebpf.build).
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "constants.h"

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NETWORK16(x) __builtin_bswap16(x)
#define NETWORK32(x) __builtin_bswap32(x)
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the byte swaps are for little-endian machines");

static void *(*map_lookup)(const void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(const void *, const void *, const void *, u64) = (void *)BPF_FUNC_map_update_elem;
static u64 (*time_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static u64 (*socket_cookie)(void *) = (void *)BPF_FUNC_get_socket_cookie;
static u64 (*cgroup_id)(void *) = (void *)BPF_FUNC_skb_cgroup_id;
static long (*load_bytes)(const void *, u32, void *, u32) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store_bytes)(void *, u32, const void *, u32, u64) = (void *)BPF_FUNC_skb_store_bytes;
static long (*change_head)(void *, u32, u64) = (void *)BPF_FUNC_skb_change_head;
static long (*pull_data)(void *, u32) = (void *)BPF_FUNC_skb_pull_data;
static long (*adjust_room)(void *, s32, u32, u64) = (void *)BPF_FUNC_skb_adjust_room;
static long (*redirect)(u32, u64) = (void *)BPF_FUNC_redirect;
static long (*adjust_head)(void *, int) = (void *)BPF_FUNC_xdp_adjust_head;

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

struct packet {
    struct tuple tuple;
    u32 payload;          // bytes beyond the transport's header
    u32 sequence;
    u16 next_type;
};

struct ipv4 {
    u8 version_ihl, tos;
    u16 total, id, fragment;
    u8 ttl, protocol;
    u16 checksum;
    u32 source, destination;
};

struct ipv6 {
    u32 version_class_label;
    u16 payload;
    u8 next, hops;
    u32 source[4], destination[4];
};

struct tcp {
    u16 source, destination;
    u32 sequence, acknowledged;
    u8 offset, flags;
    u16 window, checksum, urgent;
};

// 8-bit code of a number: host_agent.level.log2_code.
INLINE u32 log2_code(u32 value)
{
    u32 v = value, exponent = 0;

    if (value <= 1)
        return 0;
    if (v >> 16) { exponent += 16; v >>= 16; }
    if (v >> 8) { exponent += 8; v >>= 8; }
    if (v >> 4) { exponent += 4; v >>= 4; }
    if (v >> 2) { exponent += 2; v >>= 2; }
    if (v >> 1) { exponent += 1; }
    return exponent * CODE_STEPS + (u32)((((u64)value << 3) >> exponent) & 7);
}

INLINE u32 within(u32 value, struct interval interval)
{
    // One comparison, and no branch that the verifier would have to follow both ways for each rule.
    return (u32)(value - interval.low) <= (u32)(interval.high - interval.low);
}

// host_agent.level.decide over host_agent.level.level_key.
INLINE u32 decide(const struct policy *policy, u32 stage, u32 rli, s32 slack, u32 remaining)
{
    u32 late = slack <= 0;
    u32 slack_code = late ? 0 : log2_code((u32)slack);
    u32 remaining_code = log2_code(remaining);
    s32 wide = (s32)(remaining_code + policy->bias) - (s32)slack_code;
    u32 urgency = late || wide > CODE_MAX ? CODE_MAX : wide < 0 ? 0 : (u32)wide;
    u32 count = policy->count;

    for (u32 i = 0; i < RULES_MAX; i++) {
        const struct rule *rule = &policy->rules[i];
        if (i >= count)
            break;
        if ((rule->stage == stage) & within(late, rule->late) & within(rli, rule->rli) &
            within(urgency, rule->urgency) & within(slack_code, rule->slack) &
            within(remaining_code, rule->remaining))
            return rule->level & (LEVELS - 1);
    }
    return policy->unstaged & (LEVELS - 1);
}

// Addresses, ports and payload of what leaves. Fragments have no ports: only a socket or a cgroup tells whose they are.
INLINE int parse(struct __sk_buff *skb, struct packet *packet)
{
    u32 offset, length;

    packet->next_type = NETWORK16((u16)skb->protocol);
    if (packet->next_type == TYPE_IPV4) {
        struct ipv4 ip;
        u32 header;

        if (load_bytes(skb, ETHERNET_BYTES, &ip, sizeof(ip)))
            return 0;
        header = (ip.version_ihl & 0xF) * 4;
        packet->tuple.source[3] = ip.source;
        packet->tuple.destination[3] = ip.destination;
        packet->tuple.protocol = ip.protocol;
        // Beyond 64 KiB (BIG TCP) the field holds 0.
        length = ip.total ? NETWORK16(ip.total) : skb->len - ETHERNET_BYTES;
        if (length < header)
            return 0;
        length -= header;
        offset = ETHERNET_BYTES + header;
        if (ip.fragment & NETWORK16(0x3FFF)) {
            packet->payload = length;
            if (ip.protocol == UDP && !(ip.fragment & NETWORK16(0x1FFF)) && length >= 8)
                packet->payload = length - 8;
            return 1;
        }
    } else if (packet->next_type == TYPE_IPV6) {
        struct ipv6 ip;

        if (load_bytes(skb, ETHERNET_BYTES, &ip, sizeof(ip)))
            return 0;
        __builtin_memcpy(packet->tuple.source, ip.source, sizeof(ip.source));
        __builtin_memcpy(packet->tuple.destination, ip.destination, sizeof(ip.destination));
        packet->tuple.protocol = ip.next;
        length = ip.payload ? NETWORK16(ip.payload) : skb->len - ETHERNET_BYTES - sizeof(ip);
        offset = ETHERNET_BYTES + sizeof(ip);
    } else {
        return 0;
    }
    if (packet->tuple.protocol == TCP) {
        struct tcp tcp;
        u32 header;

        if (load_bytes(skb, offset, &tcp, sizeof(tcp)))
            return 0;
        header = (tcp.offset >> 4) * 4;
        packet->tuple.source_port = tcp.source;
        packet->tuple.destination_port = tcp.destination;
        packet->sequence = NETWORK32(tcp.sequence);
        packet->payload = length > header ? length - header : 0;
    } else if (packet->tuple.protocol == UDP) {
        u16 ports[2];

        if (load_bytes(skb, offset, ports, sizeof(ports)))
            return 0;
        packet->tuple.source_port = ports[0];
        packet->tuple.destination_port = ports[1];
        packet->payload = length > 8 ? length - 8 : 0;
    } else {
        packet->payload = length;
    }
    return 1;
}

INLINE const u32 *flow_of(struct __sk_buff *skb, const struct tuple *tuple)
{
    u64 identity = socket_cookie(skb);
    const u32 *index = identity ? map_lookup(&cookies, &identity) : 0;

    if (index)
        return index;
    index = map_lookup(&tuples, tuple);
    if (index)
        return index;
    identity = cgroup_id(skb);
    return identity ? map_lookup(&cgroups, &identity) : 0;
}

INLINE u32 current_layer(u32 batch)
{
    const u32 *layer = batch ? map_lookup(&progress, &batch) : 0;

    return layer ? *layer : 0;
}

// Microseconds to the deadline, rounded down and saturated.
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

// Where in its flow a packet stands: payload bytes before it. Counts it as sent, unless it was sent before.
INLINE u64 count_payload(struct state *state, const struct packet *packet, u32 *again)
{
    u64 position = state->sent;

    if (packet->tuple.protocol == TCP) {
        u32 end = packet->sequence + packet->payload;
        s32 ahead;

        if (!state->sequence_known) {
            state->next_sequence = packet->sequence;
            state->sequence_known = 1;
        }
        ahead = (s32)(packet->sequence - state->next_sequence);
        if (ahead < 0) {
            u64 back = (u64)-(s64)ahead;

            *again = 1;
            position = back > position ? 0 : position - back;
        }
        ahead = (s32)(end - state->next_sequence);
        if (ahead > 0) {
            state->sent += (u32)ahead;
            state->next_sequence = end;
        }
    } else {
        __sync_fetch_and_add(&state->sent, packet->payload);
    }
    return position;
}

INLINE u32 flags_at(const struct flow *flow, u64 position, u32 payload, u32 again)
{
    u64 end = position + payload;
    u32 flags = 0;

    if (position < flow->own_bytes && end >= flow->own_bytes)
        flags |= FLAG_LAST;
    // What is sent again begins neither a flow nor a message again.
    if (again)
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

// Promotion only, and only where a message starts; down to the scavenger at any time.
INLINE u32 ratchet(u32 held, u32 decided, u32 at_boundary)
{
    if (!held)
        return decided;
    held -= 1;
    if (decided > held)
        return at_boundary ? decided : held;
    return decided == SCAVENGER ? decided : held;
}

INLINE int leave(struct __sk_buff *skb, const struct config *config, struct counters *counters, u32 level,
                 u32 payload, const struct stamp *stamp)
{
    u32 segment = skb->gso_size, frame = segment ? skb->len - payload + segment : skb->len;
    struct shimmed front = {.type = NETWORK16(ETHERTYPE_MFS), .stamp = *stamp};

    level &= LEVELS - 1;
    counters->level_packets[level] += 1;
    counters->level_bytes[level] += skb->len;
    if (config->class_major)
        skb->priority = config->class_major << 16 | (level + 1);
    if (segment && !config->share) {
        counters->segmented += 1;
        return TC_ACT_OK;
    }
    if (frame + STAMP_BYTES > config->max_frame) {
        counters->too_long += 1;
        return TC_ACT_OK;
    }
    // The kernel goes on taking what is before the network header for the link layer's, and copies it to each segment.
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
    u32 zero = 0, stage = 0, layer, rli, again = 0, units = 0, level, batch, bank;
    s32 slack = 0;
    const u32 *index;

    config = map_lookup(&configs, &zero);
    counters = map_lookup(&counted, &zero);
    if (!config || !counters || !parse(skb, &packet))
        return TC_ACT_OK;
    bank = config->bank;
    policy = map_lookup(&policies, &bank);
    if (!policy)
        return TC_ACT_OK;
    index = flow_of(skb, &packet.tuple);
    if (index) {
        u32 slot = *index;

        flow = map_lookup(&flows, &slot);
        state = map_lookup(&states, &slot);
        if (!flow || !state)
            return TC_ACT_OK;
        batch = flow->batch;
        stamp.flow = NETWORK16(flow->number);
        stamp.target_layer = flow->target_layer;
        // Without payload it is an acknowledgement, or opens or ends a connection: of no stage.
        stage = packet.payload ? flow->stage : 0;
    } else {
        const struct peer *peer = map_lookup(&peers, &packet.tuple);

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
        u64 total = flow->own_bytes + flow->beyond_bytes, position, left;

        slack = slack_us(flow->deadline_ns, time_ns());
        if (flow->pruned && slack > 0)
            slack = 0;
        state->packets += 1;
        if (stage) {
            position = count_payload(state, &packet, &again);
            left = total > position ? total - position : 0;
            left = (left + REMAINING_UNIT_BYTES - 1) / REMAINING_UNIT_BYTES;
            units = left > 0xFFFFFFFFULL ? 0xFFFFFFFF : (u32)left;
            stamp.flags = flags_at(flow, position, packet.payload, again);
        }
    }
    level = decide(policy, stage, rli, slack, units);
    if (state && stage) {
        level = ratchet(state->level, level, stamp.flags & FLAG_BOUNDARY);
        state->level = level + 1;
    }
    stamp.version_stage = VERSION << 4 | (stage & 0xF);
    stamp.next_type = NETWORK16(packet.next_type);
    stamp.batch = NETWORK32(batch);
    stamp.current_layer = layer;
    stamp.slack = NETWORK32((u32)slack);
    stamp.remaining = NETWORK32(units);
    return leave(skb, config, counters, level, packet.payload, &stamp);
}

// The stamped packet's way back: where its answers go, and from where.
INLINE int reversed(const void *at, const void *end, u16 next_type, struct tuple *tuple)
{
    const u16 *ports;

    if (next_type == TYPE_IPV4) {
        const struct ipv4 *ip = at;

        if ((const void *)(ip + 1) > end || ip->version_ihl != 0x45 || (ip->fragment & NETWORK16(0x3FFF)))
            return 0;
        tuple->source[3] = ip->destination;
        tuple->destination[3] = ip->source;
        tuple->protocol = ip->protocol;
        ports = (const void *)(ip + 1);
    } else if (next_type == TYPE_IPV6) {
        const struct ipv6 *ip = at;

        if ((const void *)(ip + 1) > end)
            return 0;
        __builtin_memcpy(tuple->source, ip->destination, sizeof(ip->destination));
        __builtin_memcpy(tuple->destination, ip->source, sizeof(ip->source));
        tuple->protocol = ip->next;
        ports = (const void *)(ip + 1);
    } else {
        return 0;
    }
    if (tuple->protocol != TCP && tuple->protocol != UDP)
        return 1;
    if ((const void *)(ports + 2) > end)
        return 0;
    tuple->source_port = ports[1];
    tuple->destination_port = ports[0];
    return 1;
}

INLINE void learn(u32 batch, u32 layer, struct counters *counters)
{
    const u32 *known = map_lookup(&progress, &batch);

    if (known ? layer > *known : layer > 0) {
        map_update(&progress, &batch, &layer, BPF_ANY);
        counters->learnt += 1;
    }
}

// What a frame that came in tells: progress, and who is to be answered. Its stamp's next_type, in network order; 0 for a
// frame without a stamp that we understand.
INLINE u16 received(const void *start, const void *end, struct counters *counters)
{
    const struct shimmed *front = start;
    const struct stamp *stamp = &front->stamp;
    struct tuple tuple = {};
    u32 batch, stage;

    if ((const void *)(front + 1) > end || front->type != NETWORK16(ETHERTYPE_MFS))
        return 0;
    stage = stamp->version_stage & 0xF;
    if (stamp->version_stage >> 4 != VERSION || stage > STAGE_MAX) {
        counters->malformed += 1;
        return 0;
    }
    batch = NETWORK32(stamp->batch);
    if (batch)
        learn(batch, stamp->current_layer, counters);
    if (stage && reversed(front + 1, end, NETWORK16(stamp->next_type), &tuple)) {
        const struct peer *known = map_lookup(&peers, &tuple);
        struct peer peer = {batch, NETWORK16(stamp->flow), stamp->target_layer, 0};

        if (!known || known->batch != peer.batch || known->number != peer.number)
            map_update(&peers, &tuple, &peer, BPF_ANY);
    }
    return stamp->next_type;
}

// On the driver's hook.
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
    if (!next_type || adjust_head(context, STAMP_BYTES))
        return XDP_PASS;
    start = (void *)(long)context->data;
    end = (void *)(long)context->data_end;
    if (start + ETHERNET_BYTES > end)
        return XDP_DROP;
    __builtin_memcpy(start, addresses, sizeof(addresses));
    *(u16 *)(start + TYPE_OFFSET) = next_type;
    counters->removed += 1;
    return XDP_PASS;
}

// On the ingress hook of tc, for drivers that have no hook of their own, in two passes: the kernel cuts room out of IP
// packets alone, so the first pass says that it is one, and has the kernel receive it again. Filters of others follow.
_Static_assert(VERSION != 4 && VERSION != 6, "a stamp must not look like an IP header");

SECTION("tc_ingress") int mfs_tc_ingress(struct __sk_buff *skb)
{
    u32 type = NETWORK16((u16)skb->protocol), zero = 0, most = FRONT_BYTES_MAX;
    struct counters *counters;
    u16 next_type;

    if (type == TYPE_IPV4 || type == TYPE_IPV6) {
        u8 first = 0;

        if (load_bytes(skb, ETHERNET_BYTES, &first, sizeof(first)) || first >> 4 != VERSION)
            return TC_ACT_UNSPEC;
        if (adjust_room(skb, -STAMP_BYTES, BPF_ADJ_ROOM_MAC, skb->gso_size ? BPF_F_ADJ_ROOM_FIXED_GSO : 0))
            return TC_ACT_SHOT;
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
    if (store_bytes(skb, TYPE_OFFSET, &next_type, sizeof(next_type), BPF_F_RECOMPUTE_CSUM))
        return TC_ACT_UNSPEC;
    counters->removed += 1;
    return redirect(skb->ifindex, BPF_F_INGRESS);
}
