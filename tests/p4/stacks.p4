// Header stacks: filled by a parser loop, shifted, assigned and indexed at run time; a loop in an action.
#include <core.p4>
#include <v1model.p4>

header command_t {
    bit<8>  what;
    bit<8>  index;
    bit<16> value;
}

header label_t {
    bit<15> value;
    bit<1>  last;
}

struct headers_t {
    command_t  command;
    label_t[4] labels;
    label_t[4] others;
}

struct metadata_t {}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.command);
        transition label;
    }
    state label {
        packet.extract(hdr.labels.next);
        transition select(hdr.labels.last.last) {
            0       : label;
            default : accept;
        }
    }
}

control Nothing(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    action push() {
        hdr.labels.push_front(1);
        hdr.labels[0].setValid();
        hdr.labels[0].value = (bit<15>)hdr.command.value;
    }
    action push_empty() {
        hdr.labels.push_front(2);
    }
    action pop() {
        hdr.labels.pop_front(1);
    }
    action write() {
        hdr.labels[hdr.command.index].value = (bit<15>)hdr.command.value;
    }
    action read() {
        hdr.command.value = (bit<16>)hdr.labels[hdr.command.index].value;
    }
    action copy() {
        hdr.others = hdr.labels;
        hdr.labels[0].value = 0x7FFF;
    }
    action triangle() {
        bit<16> sum = 0;
        for (bit<8> i = 1; i <= hdr.command.index; i = i + 1) {
            sum = sum + (bit<16>)i;
        }
        hdr.command.value = sum;
    }
    table run {
        key = { hdr.command.what : exact; }
        actions = { push; push_empty; pop; write; read; copy; triangle; NoAction; }
        const entries = {
            1 : push();
            2 : push_empty();
            3 : pop();
            4 : write();
            5 : read();
            6 : copy();
            7 : triangle();
        }
        default_action = NoAction();
    }
    apply {
        standard.egress_spec = 1;
        if (standard.parser_error == error.StackOutOfBounds) {
            hdr.command.what = 0xEE;
        } else if (standard.parser_error == error.PacketTooShort) {
            hdr.command.what = 0xDD;
        } else {
            run.apply();
        }
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {}
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.command);
        packet.emit(hdr.labels);
        packet.emit(hdr.others);
    }
}

V1Switch(TestParser(), Nothing(), TestIngress(), TestEgress(), Nothing(), TestDeparser()) main;
