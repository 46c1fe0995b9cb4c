// What is parsed of a packet, on either architecture. Whoever includes this defines the parsers Ipv4Header, in which the
// checksum is verified where the parser is what does it, and TcpHeaders, in which the TCP checksum is prepared.
#ifndef MFS_PARSER_P4
#define MFS_PARSER_P4

#include "headers.p4"

parser PacketParser(packet_in packet, inout headers_t hdr, inout metadata_t meta) {
    Ipv4Header() ipv4_header;
    TcpHeaders() tcp_headers;

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
        // The ports of fragments are ignored, so that all fragments of a datagram take the same path.
        transition select(hdr.ipv4.ihl, hdr.ipv4.flags[0:0], hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (5, 0, 0, PROTOCOL_TCP) : parse_tcp;
            (5, 0, 0, PROTOCOL_UDP) : parse_udp;
            default                 : accept;
        }
    }

    state parse_ipv6 {
        packet.extract(hdr.ipv6);
        transition select(hdr.ipv6.next_header) {
            PROTOCOL_TCP : parse_tcp;
            PROTOCOL_UDP : parse_udp;
            default      : accept;
        }
    }

    state parse_tcp {
        tcp_headers.apply(packet, hdr, meta);
        transition accept;
    }

    state parse_udp {
        packet.extract(hdr.ports);
        transition select(hdr.ports.dst_port) {
            PORT_ROCEV2 : parse_rocev2;
            default     : accept;
        }
    }

    state parse_rocev2 {
        packet.extract(hdr.udp);
        transition select(hdr.udp.length) {
            // Too short for UDP, BTH and ICRC (8, 12 and 4 bytes): something else that uses the port.
            0  &&& 0xFFF0 : accept;
            16 &&& 0xFFF8 : accept;
            default       : parse_bth;
        }
    }

    state parse_bth {
        packet.extract(hdr.bth);
        transition select(hdr.bth.opcode) {
            // WRITE FIRST, ONLY and ONLY with immediate, reliable and unreliable connections.
            0x06 &&& 0xDF : parse_reth;
            0x0A &&& 0xDE : parse_reth;
            default       : accept;
        }
    }

    state parse_reth {
        packet.extract(hdr.reth);
        transition accept;
    }
}

#endif
