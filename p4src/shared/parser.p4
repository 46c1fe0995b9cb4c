// What is parsed of a packet, on either architecture. Whoever includes this defines the parser Ipv4Header, in which the
// checksum is verified where the parser is what does it.
#ifndef MFS_PARSER_P4
#define MFS_PARSER_P4

#include "headers.p4"

parser PacketParser(packet_in packet, inout headers_t hdr, inout metadata_t meta) {
    Ipv4Header() ipv4_header;

    state start {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_MFS  : parse_mfs;
            ETHERTYPE_IPV4 : parse_ipv4;
            ETHERTYPE_IPV6 : parse_ipv6;
            default        : accept;
        }
    }

    state parse_mfs {
        packet.extract(hdr.mfs);
        transition select(hdr.mfs.next_type) {
            ETHERTYPE_IPV4 : parse_ipv4;
            ETHERTYPE_IPV6 : parse_ipv6;
            default        : accept;
        }
    }

    state parse_ipv4 {
        ipv4_header.apply(packet, hdr.ipv4, meta);
        // Of a fragmented datagram no part is told by its ports, so that all parts take one path.
        transition select(hdr.ipv4.ihl, hdr.ipv4.flags[0:0], hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (5, 0, 0, PROTOCOL_TCP) : parse_ports;
            (5, 0, 0, PROTOCOL_UDP) : parse_ports;
            default                 : accept;
        }
    }

    state parse_ipv6 {
        packet.extract(hdr.ipv6);
        transition select(hdr.ipv6.next_header) {
            PROTOCOL_TCP : parse_ports;
            PROTOCOL_UDP : parse_ports;
            default      : accept;
        }
    }

    state parse_ports {
        packet.extract(hdr.ports);
        transition accept;
    }
}

#endif
