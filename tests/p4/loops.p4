// A parser that loops without a header stack: it skips options until the end option.
#include <core.p4>
#include <v1model.p4>

header start_t {
    bit<8> what;
    bit<8> error_code;
    bit<8> count;
}

header end_t {
    bit<8> kind;
    bit<8> value;
}

struct headers_t {
    start_t start;
    end_t   end;
}

struct metadata_t {
    bit<8> count;
}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.start);
        transition option;
    }
    state option {
        transition select(packet.lookahead<bit<8>>()) {
            0       : end;
            1       : padding;
            default : skip;
        }
    }
    state padding {
        packet.advance(8);
        meta.count = meta.count + 1;
        transition option;
    }
    state skip {
        bit<16> begin = packet.lookahead<bit<16>>();
        packet.advance((bit<32>)begin[7:0] << 3);
        meta.count = meta.count + 1;
        transition option;
    }
    state end {
        packet.extract(hdr.end);
        transition accept;
    }
}

control Nothing(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        standard.egress_spec = 1;
        hdr.start.count = meta.count;
        if (standard.parser_error == error.PacketTooShort) {
            hdr.start.error_code = 1;
        } else if (standard.parser_error != error.NoError) {
            hdr.start.error_code = 2;
        }
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {}
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.start);
        packet.emit(hdr.end);
    }
}

V1Switch(TestParser(), Nothing(), TestIngress(), TestEgress(), Nothing(), TestDeparser()) main;
