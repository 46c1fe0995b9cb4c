// Parsers, checksums and deparsers for TNA.
#ifndef MFS_TNA_PARSER_P4
#define MFS_TNA_PARSER_P4

#include "bridge.p4"

// Correct for headers without options only. Ingress discards all others, because their checksum covers options, which
// are not parsed.
parser Ipv4Header(packet_in packet, inout ipv4_t ipv4, inout metadata_t meta) {
    Checksum() sum;

    state start {
        packet.extract(ipv4);
        sum.add(ipv4);
        meta.bad_checksum = sum.verify();
        transition accept;
    }
}

// TCP's header and the option with a stamp, which has two places; any other layout is untagged traffic. What remains of the
// checksum without the option, which egress may change, is kept: the payload is not looked at (RFC 1624). Each field leaves
// the sum in the state that extracts it, as Tofino needs.
parser TcpHeaders(packet_in packet, inout headers_t hdr, inout metadata_t meta) {
    Checksum() sum;

    state start {
        packet.extract(hdr.ports);
        packet.extract(hdr.tcp);
        sum.subtract({ hdr.tcp.checksum });
        transition select(hdr.tcp.data_offset) {
            TCP_WORDS_OPTION_FIRST  : look_for_option;
            TCP_WORDS_OPTION_SECOND : look_for_lead;
            default                 : accept;
        }
    }

    state look_for_lead {
        transition select(packet.lookahead<bit<32>>()) {
            TCP_OPTIONS_TIME_STAMP : parse_lead;
            TCP_OPTIONS_SACK_BLOCK : parse_lead;
            default                : accept;
        }
    }

    state parse_lead {
        packet.extract(hdr.tcp_lead);
        transition look_for_option;
    }

    state look_for_option {
        transition select(packet.lookahead<bit<32>>()) {
            TCP_OPTION_MFS : parse_option;
            default        : accept;
        }
    }

    state parse_option {
        packet.extract(hdr.tcp_option);
        packet.extract(hdr.option_stamp);
        sum.subtract({ hdr.tcp_option.kind, hdr.tcp_option.length, hdr.tcp_option.experiment });
        sum.subtract({ hdr.option_stamp.version, hdr.option_stamp.stage, hdr.option_stamp.flags,
                       hdr.option_stamp.next_type, hdr.option_stamp.batch, hdr.option_stamp.flow,
                       hdr.option_stamp.target_layer, hdr.option_stamp.current_layer, hdr.option_stamp.slack,
                       hdr.option_stamp.remaining, hdr.option_stamp.reserved });
        sum.subtract_all_and_deposit(meta.tcp_residual);
        transition accept;
    }
}

#include "../shared/parser.p4"

// What egress changes, and no more: a parser of Tofino sees 160 bytes, those before the packet included. Behind a shim
// there is no option that counts.
parser EgressHeaders(packet_in packet, inout headers_t hdr, inout metadata_t meta) {
    Ipv4Header() ipv4_header;
    Ipv4Header() shimmed_ipv4_header;
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
            ETHERTYPE_IPV4 : parse_shimmed_ipv4;
            ETHERTYPE_IPV6 : parse_shimmed_ipv6;
            default        : accept;
        }
    }

    state parse_shimmed_ipv4 {
        shimmed_ipv4_header.apply(packet, hdr.ipv4, meta);
        transition accept;
    }

    state parse_shimmed_ipv6 {
        packet.extract(hdr.ipv6);
        transition accept;
    }

    state parse_ipv4 {
        ipv4_header.apply(packet, hdr.ipv4, meta);
        transition select(hdr.ipv4.ihl, hdr.ipv4.flags[0:0], hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (5, 0, 0, PROTOCOL_TCP) : parse_tcp;
            default                 : accept;
        }
    }

    state parse_ipv6 {
        packet.extract(hdr.ipv6);
        transition select(hdr.ipv6.next_header) {
            PROTOCOL_TCP : parse_tcp;
            default      : accept;
        }
    }

    state parse_tcp {
        tcp_headers.apply(packet, hdr, meta);
        transition accept;
    }
}

parser MfsIngressParser(packet_in packet, out bridged_headers_t hdr, out metadata_t meta,
                        out ingress_intrinsic_metadata_t intrinsic) {
    PacketParser() inner;

    state start {
        packet.extract(intrinsic);
        packet.advance(PORT_METADATA_SIZE);
        inner.apply(packet, hdr.inner, meta);
        transition accept;
    }
}

control MfsIngressDeparser(packet_out packet, inout bridged_headers_t hdr, in metadata_t meta,
                           in ingress_intrinsic_metadata_for_deparser_t for_deparser) {
    apply {
        // The checksum is written in egress, after all changes to the header.
        packet.emit(hdr);
    }
}

parser MfsEgressParser(packet_in packet, out bridged_headers_t hdr, out metadata_t meta,
                       out egress_intrinsic_metadata_t intrinsic) {
    EgressHeaders() inner;

    state start {
        packet.extract(intrinsic);
        packet.extract(hdr.bridge);
        inner.apply(packet, hdr.inner, meta);
        transition accept;
    }
}

control MfsEgressDeparser(packet_out packet, inout bridged_headers_t hdr, in metadata_t meta,
                          in egress_intrinsic_metadata_for_deparser_t for_deparser) {
    Checksum() sum;
    Checksum() tcp_sum;

    apply {
        if (hdr.inner.tcp_option.isValid()) {
            hdr.inner.tcp.checksum = tcp_sum.update({
                hdr.inner.tcp_option.kind, hdr.inner.tcp_option.length, hdr.inner.tcp_option.experiment,
                hdr.inner.option_stamp.version, hdr.inner.option_stamp.stage, hdr.inner.option_stamp.flags,
                hdr.inner.option_stamp.next_type, hdr.inner.option_stamp.batch, hdr.inner.option_stamp.flow,
                hdr.inner.option_stamp.target_layer, hdr.inner.option_stamp.current_layer,
                hdr.inner.option_stamp.slack, hdr.inner.option_stamp.remaining, hdr.inner.option_stamp.reserved,
                meta.tcp_residual });
        }
        if (hdr.inner.ipv4.isValid()) {
            hdr.inner.ipv4.checksum = sum.update({
                hdr.inner.ipv4.version, hdr.inner.ipv4.ihl, hdr.inner.ipv4.dscp, hdr.inner.ipv4.ecn,
                hdr.inner.ipv4.total_len, hdr.inner.ipv4.identification, hdr.inner.ipv4.flags,
                hdr.inner.ipv4.fragment_offset, hdr.inner.ipv4.ttl, hdr.inner.ipv4.protocol,
                hdr.inner.ipv4.src_addr, hdr.inner.ipv4.dst_addr });
        }
        packet.emit(hdr.inner);
    }
}

#endif
