// SPDX-License-Identifier: Apache-2.0
// Headers of packets, and what they say: of those that leave, and of the way back of those that came.
#pragma once
#include "maps.h"

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
