// SPDX-License-Identifier: Apache-2.0
// Packet headers: addresses, ports and payload length of outgoing packets; addresses of replies to received packets.
#pragma once
#include "maps.h"

#define TCP_SYN 0x02
#define CHECKSUM_OFFSET 16
#define TCP_HEADER_MAX 60

struct packet {
    struct five_tuple addresses;
    u32 payload;              // bytes after the transport header
    u32 sequence;
    u32 transport;            // offset of the TCP header; 0 for other packets
    u32 header;               // its length
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

// Returns the bytes at an offset of a packet, which are copied only where the packet does not begin with them; 0 past its
// end.
INLINE const void *header_at(struct __sk_buff *skb, u32 offset, void *copy, u32 bytes)
{
    const void *found = (void *)(long)skb->data + offset;

    if (found + bytes <= (void *)(long)skb->data_end)
        return found;
    return load_bytes(skb, offset, copy, bytes) ? 0 : copy;
}

// Reads addresses, ports and payload length of an outgoing packet; returns 0 if it is not IP. Fragments get no ports:
// only the socket or cgroup identifies their flow.
INLINE int parse(struct __sk_buff *skb, struct packet *packet)
{
    u32 offset, length;

    packet->next_type = NETWORK16((u16)skb->protocol);
    if (packet->next_type == TYPE_IPV4) {
        struct ipv4 copy;
        const struct ipv4 *ip = header_at(skb, ETHERNET_BYTES, &copy, sizeof(copy));
        u32 header;

        if (!ip)
            return 0;
        header = (ip->version_ihl & 0xF) * 4;
        packet->addresses.source[3] = ip->source;
        packet->addresses.destination[3] = ip->destination;
        packet->addresses.protocol = ip->protocol;
        // The field is 0 above 64 KiB (BIG TCP).
        length = ip->total ? NETWORK16(ip->total) : skb->len - ETHERNET_BYTES;
        if (length < header)
            return 0;
        length -= header;
        offset = ETHERNET_BYTES + header;
        if (ip->fragment & NETWORK16(0x3FFF)) {
            packet->payload = length;
            if (ip->protocol == UDP && !(ip->fragment & NETWORK16(0x1FFF)) && length >= 8)
                packet->payload = length - 8;
            return 1;
        }
    } else if (packet->next_type == TYPE_IPV6) {
        struct ipv6 copy;
        const struct ipv6 *ip = header_at(skb, ETHERNET_BYTES, &copy, sizeof(copy));

        if (!ip)
            return 0;
        __builtin_memcpy(packet->addresses.source, ip->source, sizeof(ip->source));
        __builtin_memcpy(packet->addresses.destination, ip->destination, sizeof(ip->destination));
        packet->addresses.protocol = ip->next;
        length = ip->payload ? NETWORK16(ip->payload) : skb->len - ETHERNET_BYTES - sizeof(*ip);
        offset = ETHERNET_BYTES + sizeof(*ip);
    } else {
        return 0;
    }
    if (packet->addresses.protocol == TCP) {
        struct tcp copy;
        const struct tcp *tcp = header_at(skb, offset, &copy, sizeof(copy));
        u32 header;

        if (!tcp)
            return 0;
        header = (tcp->offset >> 4) * 4;
        packet->addresses.source_port = tcp->source;
        packet->addresses.destination_port = tcp->destination;
        packet->sequence = NETWORK32(tcp->sequence);
        packet->transport = offset;
        packet->header = header;
        packet->payload = length > header ? length - header : 0;
    } else if (packet->addresses.protocol == UDP) {
        u16 ports[2];

        if (load_bytes(skb, offset, ports, sizeof(ports)))
            return 0;
        packet->addresses.source_port = ports[0];
        packet->addresses.destination_port = ports[1];
        packet->payload = length > 8 ? length - 8 : 0;
    } else {
        packet->payload = length;
    }
    return 1;
}

// Reads the addresses and ports of replies to a received packet; returns 0 if they are unknown.
INLINE int reversed(const void *at, const void *end, u16 next_type, struct five_tuple *answers)
{
    const u16 *ports;

    if (next_type == TYPE_IPV4) {
        const struct ipv4 *ip = at;

        if ((const void *)(ip + 1) > end || ip->version_ihl != 0x45 || (ip->fragment & NETWORK16(0x3FFF)))
            return 0;
        answers->source[3] = ip->destination;
        answers->destination[3] = ip->source;
        answers->protocol = ip->protocol;
        ports = (const void *)(ip + 1);
    } else if (next_type == TYPE_IPV6) {
        const struct ipv6 *ip = at;

        if ((const void *)(ip + 1) > end)
            return 0;
        __builtin_memcpy(answers->source, ip->destination, sizeof(ip->destination));
        __builtin_memcpy(answers->destination, ip->source, sizeof(ip->source));
        answers->protocol = ip->next;
        ports = (const void *)(ip + 1);
    } else {
        return 0;
    }
    if (answers->protocol != TCP && answers->protocol != UDP)
        return 1;
    if ((const void *)(ports + 2) > end)
        return 0;
    answers->source_port = ports[1];
    answers->destination_port = ports[0];
    return 1;
}
