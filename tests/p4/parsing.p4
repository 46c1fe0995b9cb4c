// Parser: lookahead, masks and ranges in select, verify, advance and errors; headers made valid and invalid.
#include <core.p4>
#include <v1model.p4>

error { BadVersion }

header start_t {
    bit<8>  kind;
    bit<4>  version;
    bit<4>  words;
}

header odd_t {
    bit<3>  first;
    bit<13> second;
    int<8>  third;
    bit<24> fourth;
    bit<48> fifth;
    bit<1>  sixth;
    bit<7>  seventh;
}

header tail_t {
    bit<16> value;
}

header report_t {
    bit<8>  error_code;
    bit<8>  path;
    bit<16> length;
    bit<32> egress_length;
    bit<8>  peeked;
    bit<16> negative;
}

struct headers_t {
    report_t report;
    start_t  start;
    odd_t    odd;
    odd_t    copy;
    tail_t   tail;
}

struct metadata_t {
    bit<8> path;
    bit<8> peeked;
}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.start);
        verify(hdr.start.version != 15, error.BadVersion);
        transition select(hdr.start.kind, hdr.start.version) {
            (1, _)             : parse_odd;
            (0x20 &&& 0xF0, 2) : peek;
            (3, 4..7)          : skip;
            (4, _)             : skip_words;
            default            : accept;
        }
    }
    state parse_odd {
        packet.extract(hdr.odd);
        meta.path = meta.path + 1;
        transition select(hdr.odd.second[3:0], hdr.odd.sixth) {
            (0xF, 1) : parse_tail;
            default  : accept;
        }
    }
    state peek {
        meta.peeked = packet.lookahead<bit<8>>();
        transition select(packet.lookahead<bit<12>>()) {
            0xABC   : parse_tail;
            default : accept;
        }
    }
    state skip {
        packet.advance(16);
        transition parse_tail;
    }
    state skip_words {
        packet.advance((bit<32>)hdr.start.words << 3);
        transition parse_tail;
    }
    state parse_tail {
        packet.extract(hdr.tail);
        meta.path = meta.path + 2;
        transition accept;
    }
}

control Nothing(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        hdr.report.setValid();
        hdr.report.path = meta.path;
        hdr.report.peeked = meta.peeked;
        hdr.report.length = (bit<16>)standard.packet_length;
        if (standard.parser_error == error.PacketTooShort) {
            hdr.report.error_code = 1;
        } else if (standard.parser_error == error.BadVersion) {
            hdr.report.error_code = 2;
        } else if (standard.parser_error != error.NoError) {
            hdr.report.error_code = 3;
        }
        if (hdr.odd.isValid()) {
            hdr.report.negative = (bit<16>)(int<16>)hdr.odd.third;
            if (hdr.odd.first == 7) {
                hdr.copy = hdr.odd;
                hdr.copy.second = 5;
                hdr.odd.setInvalid();
            }
            if (hdr.odd.first == 5) {
                hdr.copy = hdr.odd;
            }
            if (hdr.odd.first == 6) {
                hdr.copy.setValid();
                hdr.copy.third = -1;
            }
        }
        if (hdr.odd.isValid() && hdr.copy == hdr.odd) {
            hdr.report.path = 99;
        }
        standard.egress_spec = 1;
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        hdr.report.egress_length = standard.packet_length;
        if (hdr.tail.isValid() && hdr.tail.value == 0xDEAD) {
            mark_to_drop(standard);
        }
    }
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.report);
        packet.emit(hdr.start);
        packet.emit(hdr.odd);
        packet.emit(hdr.copy);
        packet.emit(hdr.tail);
    }
}

V1Switch(TestParser(), Nothing(), TestIngress(), TestEgress(), Nothing(), TestDeparser()) main;
