// Parsers, checksums and deparsers for TNA.
#ifndef MFS_TNA_PARSER_P4
#define MFS_TNA_PARSER_P4

#include "bridge.p4"

// Headers without options only: others are discarded in ingress, since their sum covers more than is parsed.
parser Ipv4Header(packet_in packet, inout ipv4_t ipv4, inout metadata_t meta) {
    Checksum() sum;

    state start {
        packet.extract(ipv4);
        sum.add(ipv4);
        meta.bad_checksum = sum.verify();
        transition accept;
    }
}

#include "../shared/parser.p4"

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
        // The checksum is written in egress, after all changes.
        packet.emit(hdr);
    }
}

parser MfsEgressParser(packet_in packet, out bridged_headers_t hdr, out metadata_t meta,
                       out egress_intrinsic_metadata_t intrinsic) {
    PacketParser() inner;

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

    apply {
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
