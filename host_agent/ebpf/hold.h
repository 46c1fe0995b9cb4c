// SPDX-License-Identifier: Apache-2.0
// Holds a flow at its source: lowers the window of the acknowledgements that its sender receives, as AC/DC TCP does (He
// et al., SIGCOMM 2016). The sender keeps to it without timeouts: it probes a zero window, but retransmits nothing.
#pragma once
#include "maps.h"
#include "packet.h"

#define TCP_FIN 0x01
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define WINDOW_OFFSET 14
#define TIME_OPTION 0x0101080A // two NOPs, kind, length: as Linux and RFC 7323 (appendix A) lay it out
#define HOLD_BYTES_MAX 86      // Ethernet, IPv6, TCP, time stamp option

// A window to be lowered; offset is that of the TCP header in the frame, windows are in network order.
struct lowered {
    u32 offset;
    u16 before, after;
};

// Returns the window that the flow may be told, in bytes.
INLINE u64 granted(u64 grant, u32 acknowledged)
{
    u32 limit = (u32)grant;
    s32 ahead = (s32)(limit - acknowledged);

    if (grant >> 32 == GRANT_WINDOW)
        return limit;
    return ahead > 0 ? (u64)ahead : 0;
}

// Notes the acknowledgement of a received frame. Returns 1 if its window must be lowered.
INLINE int hear(const void *start, const void *end, struct lowered *lowered)
{
    struct connection fresh = {}, *connection;
    struct five_tuple answers = {};
    const struct config *config;
    const struct tcp *tcp;
    const u32 *options;
    struct heard heard = {};
    struct hold *hold;
    u32 zero = 0, slot, offset, length, header, scale;
    u64 grant, window, allowed;
    u16 type;

    config = map_lookup(&configs, &zero);
    if (!config || !config->kick_mark || start + ETHERNET_BYTES > end)
        return 0;
    type = NETWORK16(*(const u16 *)(start + TYPE_OFFSET));
    if (!reversed(start + ETHERNET_BYTES, end, type, &answers) || answers.protocol != TCP)
        return 0;
    if (type == TYPE_IPV4) {
        offset = ETHERNET_BYTES + sizeof(struct ipv4);
        length = NETWORK16(((const struct ipv4 *)(start + ETHERNET_BYTES))->total) - sizeof(struct ipv4);
    } else {
        offset = ETHERNET_BYTES + sizeof(struct ipv6);
        length = NETWORK16(((const struct ipv6 *)(start + ETHERNET_BYTES))->payload);
    }
    tcp = start + offset;
    if ((const void *)(tcp + 1) > end || tcp->flags & TCP_RST)
        return 0;
    header = (tcp->offset >> 4) * 4;
    heard.acknowledged = NETWORK32(tcp->acknowledged);
    heard.peer_next = NETWORK32(tcp->sequence) + (length > header ? length - header : 0);
    if (tcp->flags & (TCP_SYN | TCP_FIN))
        heard.peer_next += 1;
    heard.window = NETWORK16(tcp->window);
    heard.known = tcp->flags & TCP_ACK ? tcp->flags & TCP_SYN ? HEARD_UNSCALED : HEARD_SCALED : 0;
    options = (const void *)(tcp + 1);
    if (header >= sizeof(*tcp) + 12 && (const void *)(options + 3) <= end && options[0] == NETWORK32(TIME_OPTION)) {
        heard.time_value = NETWORK32(options[1]);
        heard.time_echo = NETWORK32(options[2]);
        heard.timed = 1;
    }
    connection = map_lookup(&connections, &answers);
    if (tcp->flags & TCP_SYN) {
        fresh.heard = heard;
        fresh.hold = connection ? connection->hold : 0;
        map_update(&connections, &answers, &fresh, BPF_ANY);
        return 0;
    }
    if (!connection || !heard.known)
        return 0;
    if (!connection->heard.known || (s32)(heard.acknowledged - connection->heard.acknowledged) >= 0)
        connection->heard = heard;
    if (!connection->hold)
        return 0;
    slot = connection->hold - 1;
    hold = map_lookup(&holds, &slot);
    if (!hold)
        return 0;
    hold->heard = connection->heard;
    grant = *(volatile u64 *)&hold->grant;
    if (!grant || time_ns() > *(volatile u64 *)&hold->expires_ns)
        return 0;
    scale = hold->scale > WINDOW_SCALE_MAX ? WINDOW_SCALE_MAX : hold->scale;
    window = (u64)heard.window << scale;
    allowed = granted(grant, heard.acknowledged);
    if (allowed >= window)
        return 0;
    lowered->offset = offset;
    lowered->before = tcp->window;
    // Rounded up: otherwise a small grant would be none.
    lowered->after = NETWORK16((u16)((allowed + (1ULL << scale) - 1) >> scale));
    return lowered->before != lowered->after;
}

// Lowers the window of a frame on the driver's hook, and mends the checksum (RFC 1624, equation 3).
INLINE void hold_frame(void *start, const void *end, struct counters *counters)
{
    struct lowered lowered = {};
    struct tcp *tcp;
    u32 sum;

    if (!hear(start, end, &lowered) || lowered.offset > ETHERNET_BYTES + sizeof(struct ipv6))
        return;
    tcp = start + lowered.offset;
    if ((void *)(tcp + 1) > end)
        return;
    sum = (u16)~tcp->checksum + (u16)~lowered.before + lowered.after;
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    tcp->window = lowered.after;
    tcp->checksum = (u16)~sum;
    counters->lowered += 1;
}

// The same on the ingress hook of tc. The helper leaves a checksum alone that is yet to be computed.
INLINE void hold_packet(struct __sk_buff *skb)
{
    struct counters *counters;
    struct lowered lowered = {};
    u32 zero = 0;

    if ((void *)(long)skb->data + HOLD_BYTES_MAX > (void *)(long)skb->data_end)
        pull_data(skb, skb->len < HOLD_BYTES_MAX ? skb->len : HOLD_BYTES_MAX);
    if (!hear((void *)(long)skb->data, (void *)(long)skb->data_end, &lowered))
        return;
    if (store_bytes(skb, lowered.offset + WINDOW_OFFSET, &lowered.after, sizeof(lowered.after), 0))
        return;
    replace_checksum(skb, lowered.offset + CHECKSUM_OFFSET, lowered.before, lowered.after, sizeof(lowered.after));
    counters = map_lookup(&counted, &zero);
    if (counters)
        counters->lowered += 1;
}
