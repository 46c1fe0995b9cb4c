// Clone, resubmit and recirculate with preserved fields; multicast; truncate.
#include <core.p4>
#include <v1model.p4>

header command_t {
    bit<8>  what;
    bit<8>  argument;
    bit<16> value;
}

header report_t {
    bit<8>  instance_type;
    bit<8>  rid;
    bit<8>  kept;
    bit<8>  lost;
    bit<16> length;
    bit<16> ingress_port;
}

struct headers_t {
    report_t  report;
    command_t command;
}

struct metadata_t {
    @field_list(1)
    bit<8> kept;
    @field_list(2)
    bit<8> lost;
}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.command);
        transition accept;
    }
}

control Nothing(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        bool first = standard.instance_type == 0;
        standard.egress_spec = 1;
        if (first) {
            meta.kept = hdr.command.argument;
            meta.lost = hdr.command.argument;
        }
        if (first && hdr.command.what == 1) {
            clone_preserving_field_list(CloneType.I2E, (bit<32>)hdr.command.argument, 1);
            hdr.command.value = 0x1111;
        } else if (hdr.command.what == 3 && (first || hdr.command.argument == 0xFF)) {
            hdr.command.value = 0x3333;
            resubmit_preserving_field_list(1);
        } else if (hdr.command.what == 5) {
            standard.mcast_grp = (bit<16>)hdr.command.argument;
        } else if (hdr.command.what == 6) {
            truncate((bit<32>)hdr.command.argument);
            truncate(100);
        } else if (hdr.command.what == 7) {
            mark_to_drop(standard);
            clone(CloneType.I2E, (bit<32>)hdr.command.argument);
        }
        if (standard.instance_type == 4) {
            standard.egress_spec = 2;
        }
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        if (hdr.command.what == 2 && standard.instance_type == 0) {
            hdr.command.value = 0x2222;
            clone_preserving_field_list(CloneType.E2E, (bit<32>)hdr.command.argument, 1);
        }
        if (hdr.command.what == 4 && standard.instance_type == 0) {
            hdr.command.what = hdr.command.argument;
            hdr.command.value = 0x4444;
            recirculate_preserving_field_list(2);
        } else if (hdr.command.what != 6) {
            hdr.report.setValid();
            hdr.report.instance_type = (bit<8>)standard.instance_type;
            hdr.report.rid = (bit<8>)standard.egress_rid;
            hdr.report.kept = meta.kept;
            hdr.report.lost = meta.lost;
            hdr.report.length = (bit<16>)standard.packet_length;
            hdr.report.ingress_port = (bit<16>)standard.ingress_port;
        }
    }
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.report);
        packet.emit(hdr.command);
    }
}

V1Switch(TestParser(), Nothing(), TestIngress(), TestEgress(), Nothing(), TestDeparser()) main;
