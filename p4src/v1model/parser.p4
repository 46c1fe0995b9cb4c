// Parser, checksums and deparser for v1model.
#ifndef MFS_V1MODEL_PARSER_P4
#define MFS_V1MODEL_PARSER_P4

#include <v1model.p4>
#include "../shared/headers.p4"

// The checksum has a block of its own.
parser Ipv4Header(packet_in packet, inout ipv4_t ipv4, inout metadata_t meta) {
    state start {
        packet.extract(ipv4);
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

// Headers without options only: others are discarded in ingress, since their sum covers more than is parsed.
#define IPV4_CHECKSUM_FIELDS { hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.dscp, hdr.ipv4.ecn, hdr.ipv4.total_len, \
    hdr.ipv4.identification, hdr.ipv4.flags, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, hdr.ipv4.protocol, \
    hdr.ipv4.src_addr, hdr.ipv4.dst_addr }

control MfsVerifyChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.ipv4.isValid() && hdr.ipv4.ihl == 5, IPV4_CHECKSUM_FIELDS, hdr.ipv4.checksum,
                        HashAlgorithm.csum16);
    }
}

control MfsComputeChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {
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
    }
}

#endif
