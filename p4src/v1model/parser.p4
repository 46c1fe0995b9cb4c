// Parser, checksums and deparser for v1model.
#ifndef MFS_V1MODEL_PARSER_P4
#define MFS_V1MODEL_PARSER_P4

#include <v1model.p4>
#include "../shared/headers.p4"

// v1model verifies the checksum in a separate block.
parser Ipv4Header(packet_in packet, inout ipv4_t ipv4, inout metadata_t meta) {
    state start {
        packet.extract(ipv4);
        transition accept;
    }
}

// TCP's header and the option with a stamp, which has two places; any other layout is untagged traffic.
parser TcpHeaders(packet_in packet, inout headers_t hdr, inout metadata_t meta) {
    state start {
        packet.extract(hdr.ports);
        packet.extract(hdr.tcp);
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
        transition accept;
    }
}

#include "../shared/parser.p4"

parser MfsParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    PacketParser() inner;

    state start {
        inner.apply(packet, hdr, meta);
        transition accept;
    }
}

// Correct for headers without options only. Ingress discards all others, because their checksum covers options, which
// are not parsed.
#define IPV4_CHECKSUM_FIELDS { hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.dscp, hdr.ipv4.ecn, hdr.ipv4.total_len, \
    hdr.ipv4.identification, hdr.ipv4.flags, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, hdr.ipv4.protocol, \
    hdr.ipv4.src_addr, hdr.ipv4.dst_addr }

control MfsVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.ipv4.isValid() && hdr.ipv4.ihl == 5, IPV4_CHECKSUM_FIELDS, hdr.ipv4.checksum,
                        HashAlgorithm.csum16);
    }
}

// The option with its stamp, as one number.
#define OPTION_BITS(hdr) (hdr.tcp_option.kind ++ hdr.tcp_option.length ++ hdr.tcp_option.experiment ++ \
    hdr.option_stamp.version ++ hdr.option_stamp.stage ++ hdr.option_stamp.flags ++ hdr.option_stamp.next_type ++ \
    hdr.option_stamp.batch ++ hdr.option_stamp.flow ++ hdr.option_stamp.target_layer ++ \
    hdr.option_stamp.current_layer ++ (bit<32>)hdr.option_stamp.slack ++ hdr.option_stamp.remaining ++ \
    hdr.option_stamp.reserved)

// Before and after the option may change: what the TCP checksum loses, in ones' complement, and what it covers instead.
control ForgetOption(inout headers_t hdr, inout metadata_t meta) {
    apply {
        if (hdr.tcp_option.isValid()) {
            meta.tcp_residual = ~hdr.tcp.checksum;
            meta.option_before = ~OPTION_BITS(hdr);
        }
    }
}

control MfsComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        // RFC 1624, equation 3: the payload is not looked at, so a damaged segment stays damaged.
        update_checksum(hdr.tcp_option.isValid(), { meta.tcp_residual, meta.option_before,
                            hdr.tcp_option.kind, hdr.tcp_option.length, hdr.tcp_option.experiment,
                            hdr.option_stamp.version, hdr.option_stamp.stage, hdr.option_stamp.flags,
                            hdr.option_stamp.next_type, hdr.option_stamp.batch, hdr.option_stamp.flow,
                            hdr.option_stamp.target_layer, hdr.option_stamp.current_layer, hdr.option_stamp.slack,
                            hdr.option_stamp.remaining, hdr.option_stamp.reserved },
                        hdr.tcp.checksum, HashAlgorithm.csum16);
        update_checksum(hdr.ipv4.isValid(), IPV4_CHECKSUM_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16);
    }
}

control MfsDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.mfs);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.ipv6);
        packet.emit(hdr.ports);
        packet.emit(hdr.tcp);
        packet.emit(hdr.tcp_lead);
        packet.emit(hdr.tcp_option);
        packet.emit(hdr.option_stamp);
        packet.emit(hdr.udp);
        packet.emit(hdr.bth);
        packet.emit(hdr.reth);
    }
}

#endif
