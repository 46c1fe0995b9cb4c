// Variable-width fields, header unions, stacks of unions, and a parser value set.
#include <core.p4>
#include <v1model.p4>

header start_t {
    bit<8>  what;
    bit<4>  words;
    bit<4>  kinds;
    bit<16> checksum;
}

header options_t {
    bit<4>      first;
    varbit<120> data;
    bit<4>      second;
}

header short_t {
    bit<8> kind;
    bit<8> value;
}

header long_t {
    bit<8>  kind;
    bit<24> value;
}

header_union item_t {
    short_t small;
    long_t  large;
}

struct headers_t {
    start_t   start;
    options_t options;
    options_t copy;
    item_t    item;
    item_t[2] items;
}

struct metadata_t {
    bit<8> path;
}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    value_set<bit<8>>(4) large_kinds;

    state start {
        packet.extract(hdr.start);
        packet.extract(hdr.options, (bit<32>)hdr.start.words << 3);
        transition select(packet.lookahead<bit<8>>()) {
            large_kinds : large;
            1           : small;
            2           : list;
            default     : accept;
        }
    }
    state small {
        packet.extract(hdr.item.small);
        transition accept;
    }
    state large {
        packet.extract(hdr.item.large);
        transition accept;
    }
    state list {
        transition select(packet.lookahead<bit<8>>()) {
            2       : list_small;
            3       : list_large;
            default : accept;
        }
    }
    state list_small {
        packet.extract(hdr.items.next.small);
        transition list;
    }
    state list_large {
        packet.extract(hdr.items.next.large);
        transition list;
    }
}

control Verify(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(true, { hdr.start.what, hdr.start.words, hdr.start.kinds, hdr.options.first, hdr.options.data,
                                hdr.options.second }, hdr.start.checksum, HashAlgorithm.csum16);
    }
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        standard.egress_spec = 1;
        if (hdr.start.what == 1) {
            hdr.copy = hdr.options;
        } else if (hdr.start.what == 2 && hdr.item.isValid()) {
            if (hdr.item.small.isValid()) {
                bit<8> value = hdr.item.small.value;
                hdr.item.large.setValid();
                hdr.item.large.kind = 9;
                hdr.item.large.value = (bit<24>)value;
            } else {
                hdr.item.large.setInvalid();
            }
        } else if (hdr.start.what == 3) {
            hdr.items.pop_front(1);
        } else if (hdr.start.what == 4) {
            hdr.options.setInvalid();
        } else if (hdr.start.what == 5 && hdr.item.small.isValid()) {
            hash(hdr.item.small.value, HashAlgorithm.crc16, (bit<8>)0, { hdr.options.data, hdr.item.small.kind }, (bit<8>)255);
        }
        if (standard.checksum_error == 1) {
            hdr.start.kinds = 0xE;
        }
        if (standard.parser_error == error.HeaderTooShort) {
            hdr.start.kinds = 0xD;
        } else if (standard.parser_error == error.StackOutOfBounds) {
            hdr.start.kinds = 0xC;
        }
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        if (hdr.start.what == 6) {
            hdr.start.checksum = (bit<16>)standard.packet_length;
        }
    }
}

control Update(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(hdr.start.what == 1, { hdr.start.what, hdr.start.words, hdr.start.kinds, hdr.options.first,
                        hdr.options.data, hdr.options.second }, hdr.start.checksum, HashAlgorithm.csum16);
    }
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.start);
        packet.emit(hdr.options);
        packet.emit(hdr.copy);
        packet.emit(hdr.item);
        packet.emit(hdr.items);
    }
}

V1Switch(TestParser(), Verify(), TestIngress(), TestEgress(), Update(), TestDeparser()) main;
