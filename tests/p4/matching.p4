// Tables of every match kind and implementation, and every form of control flow after a table.
#include <core.p4>
#include <v1model.p4>

header keys_t {
    bit<8>  which;
    bit<8>  small;
    bit<16> medium;
    bit<32> large;
}

header answer_t {
    bit<8>  number;
    bit<8>  trace;
    bit<8>  colour;
}

struct headers_t {
    answer_t answer;
    keys_t   keys;
}

struct metadata_t {
    bit<2> colour;
}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.keys);
        transition accept;
    }
}

control Nothing(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    direct_counter(CounterType.packets_and_bytes) hits;
    direct_meter<bit<2>>(MeterType.bytes) rate;
    action_profile(16) shared_actions;
    action_selector(HashAlgorithm.crc16, 16, 16) spread;

    action answer(bit<8> number) {
        hdr.answer.number = number;
    }
    action also(bit<8> number, bit<8> trace) {
        hdr.answer.number = number;
        hdr.answer.trace = trace;
    }
    action drop() {
        mark_to_drop(standard);
    }
    action leave(bit<8> number) {
        hdr.answer.number = number;
        exit;
    }
    action metered() {
        rate.read(meta.colour);
        hdr.answer.number = 1;
    }
    action branchy(bit<8> number) {
        if (number > 100) {
            hdr.answer.number = number;
            if (number == 200) {
                return;
            }
        } else {
            hdr.answer.number = 100 - number;
        }
        hdr.answer.trace = 77;
    }

    table exact_table {
        key = { hdr.keys.small : exact; hdr.keys.medium : exact; }
        actions = { answer; also; drop; leave; branchy; NoAction; }
        default_action = answer(1);
        counters = hits;
        size = 8;
    }
    table lpm_table {
        key = { hdr.keys.large : lpm; }
        actions = { answer; NoAction; }
        default_action = NoAction;
        size = 64;
    }
    table ternary_table {
        key = { hdr.keys.large : ternary; hdr.keys.small : exact; }
        actions = { answer; also; drop; }
        default_action = answer(2);
        size = 64;
    }
    table range_table {
        key = { hdr.keys.small : range; hdr.keys.medium : ternary; hdr.keys.large : lpm; }
        actions = { answer; also; }
        default_action = also(3, 3);
        size = 64;
    }
    table optional_table {
        key = { hdr.keys.small : optional; hdr.keys.medium : optional; }
        actions = { answer; NoAction; }
        default_action = NoAction;
        size = 64;
    }
    table const_table {
        key = { hdr.keys.small : ternary; }
        actions = { answer; leave; }
        const default_action = answer(0);
        const entries = {
            0x10 &&& 0xF0 : answer(10);
            0x11          : answer(11);
            0x20 &&& 0x60 : answer(12);
            0x00 &&& 0x01 : leave(13);
        }
    }
    table keyless {
        actions = { answer; also; }
        default_action = answer(42);
    }
    table profiled {
        key = { hdr.keys.small : exact; }
        actions = { answer; also; NoAction; }
        implementation = shared_actions;
        size = 16;
    }
    table selected {
        key = { hdr.keys.small : exact; hdr.keys.medium : selector; hdr.keys.large : selector; }
        actions = { answer; also; NoAction; }
        implementation = spread;
        size = 16;
    }
    table metered_table {
        key = { hdr.keys.small : exact; }
        actions = { metered; NoAction; }
        default_action = NoAction;
        meters = rate;
        size = 16;
    }
    table masked {
        key = { hdr.keys.large & 0x00FFFF00 : exact; hdr.keys.isValid() : exact; }
        actions = { answer; NoAction; }
        default_action = NoAction;
        size = 16;
    }

    apply {
        standard.egress_spec = 1;
        hdr.answer.setValid();
        if (hdr.keys.which == 0) {
            exact_table.apply();
            hdr.answer.trace = hdr.answer.trace + 1;
        } else if (hdr.keys.which == 1) {
            if (lpm_table.apply().hit) {
                hdr.answer.trace = 1;
            } else {
                hdr.answer.trace = 2;
            }
        } else if (hdr.keys.which == 2) {
            switch (ternary_table.apply().action_run) {
                answer  : { hdr.answer.trace = 5; }
                drop    : { hdr.answer.trace = 6; keyless.apply(); }
                default : { hdr.answer.trace = 7; }
            }
        } else if (hdr.keys.which == 3) {
            range_table.apply();
        } else if (hdr.keys.which == 4) {
            optional_table.apply();
        } else if (hdr.keys.which == 5) {
            const_table.apply();
            hdr.answer.trace = 9;
        } else if (hdr.keys.which == 6) {
            keyless.apply();
        } else if (hdr.keys.which == 7) {
            profiled.apply();
            if (hdr.answer.number == 0) {
                hdr.answer.trace = 8;
            }
        } else if (hdr.keys.which == 8) {
            if (!selected.apply().hit) {
                hdr.answer.trace = 4;
            }
        } else if (hdr.keys.which == 9) {
            metered_table.apply();
            hdr.answer.colour = (bit<8>)meta.colour;
        } else {
            masked.apply();
        }
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {}
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.answer);
    }
}

V1Switch(TestParser(), Nothing(), TestIngress(), TestEgress(), Nothing(), TestDeparser()) main;
