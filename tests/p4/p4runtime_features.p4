// One object of every kind that the P4Runtime server handles, for tests/soft_switch/p4runtime/.
#include <core.p4>
#include <v1model.p4>

@controller_header("packet_out")
header packet_out_t {
    bit<9> egress_port;
    bit<7> padding;
}

@controller_header("packet_in")
header packet_in_t {
    bit<9>  ingress_port;
    bit<7>  reason;
    bit<16> ether_type;
}

header ethernet_t {
    bit<48> destination;
    bit<48> source;
    bit<16> ether_type;
}

header ipv4_t {
    bit<4>  version;
    bit<4>  ihl;
    bit<8>  diffserv;
    bit<16> total_length;
    bit<16> identification;
    bit<3>  flags;
    bit<13> fragment_offset;
    bit<8>  ttl;
    bit<8>  protocol;
    bit<16> checksum;
    bit<32> source;
    bit<32> destination;
}

struct headers_t {
    packet_out_t packet_out;
    packet_in_t  packet_in;
    ethernet_t   ethernet;
    ipv4_t       ipv4;
}

struct metadata_t {
    bit<8>  class;
    bit<2>  color;
    bit<16> hop;
}

struct learn_t {
    bit<48> source;
    bit<9>  port;
}

const bit<9> CPU_PORT = 510;

parser features_parser(packet_in packet, out headers_t hdr, inout metadata_t meta,
                       inout standard_metadata_t standard_metadata) {
    state start {
        transition select(standard_metadata.ingress_port) {
            CPU_PORT: parse_packet_out;
            default: parse_ethernet;
        }
    }
    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition parse_ethernet;
    }
    state parse_ethernet {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            0x0800: parse_ipv4;
            default: accept;
        }
    }
    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition accept;
    }
}

control features_verify(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control ingress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    counter(16, CounterType.packets_and_bytes) port_counter;
    direct_counter(CounterType.packets_and_bytes) route_counter;
    meter(8, MeterType.bytes) port_meter;
    direct_meter<bit<2>>(MeterType.packets) class_meter;
    register<bit<32>>(4) last_seen;
    @max_group_size(8)
    action_selector(HashAlgorithm.crc16, 32w16, 32w16) hops;
    action_profile(8) rewrites;

    action drop() {
        mark_to_drop(standard_metadata);
    }
    action forward(bit<9> port) {
        standard_metadata.egress_spec = port;
    }
    action to_cpu(bit<7> reason) {
        hdr.packet_in.setValid();
        hdr.packet_in.ingress_port = standard_metadata.ingress_port;
        hdr.packet_in.reason = reason;
        hdr.packet_in.ether_type = hdr.ethernet.ether_type;
        standard_metadata.egress_spec = CPU_PORT;
    }
    action set_class(bit<8> value) {
        meta.class = value;
    }
    action set_class_metered(bit<8> value) {
        class_meter.read(meta.color);
        meta.class = value;
    }
    action learn() {
        digest<learn_t>(1, {hdr.ethernet.source, standard_metadata.ingress_port});
    }
    action set_hop(bit<9> port, bit<48> destination) {
        standard_metadata.egress_spec = port;
        hdr.ethernet.destination = destination;
    }
    action rewrite(bit<48> source) {
        hdr.ethernet.source = source;
    }

    table known_sources {                       // exact; a miss sends a digest, entries time out
        key = { hdr.ethernet.source : exact @name("source"); }
        actions = { NoAction; @defaultonly learn; }
        const default_action = learn();
        size = 8;
        support_timeout = true;
    }
    table routes {                              // longest-prefix match, with a direct counter
        key = { hdr.ipv4.destination : lpm @name("destination"); }
        actions = { forward; drop; to_cpu; @tableonly set_class; }
        default_action = drop();
        counters = route_counter;
        size = 64;
    }
    table classes {                             // ternary, range, optional and exact match, with a direct meter
        key = {
            hdr.ipv4.source : ternary @name("source");
            hdr.ipv4.total_length : range @name("length");
            hdr.ipv4.protocol : optional @name("protocol");
            standard_metadata.ingress_port : exact @name("port");
        }
        actions = { set_class_metered; NoAction; }
        meters = class_meter;
        size = 32;
    }
    table balanced {                            // action profile with a selector
        key = {
            hdr.ipv4.destination : exact @name("destination");
            hdr.ipv4.source : selector;
            hdr.ipv4.protocol : selector;
        }
        actions = { set_hop; drop; }
        implementation = hops;
        size = 16;
    }
    table rewritten {                           // action profile without a selector
        key = { standard_metadata.egress_spec : exact @name("port"); }
        actions = { rewrite; NoAction; }
        implementation = rewrites;
        size = 16;
    }
    table fixed_ports {                         // constant entries
        key = { hdr.ethernet.ether_type : ternary @name("ether_type"); }
        actions = { to_cpu; NoAction; }
        const entries = {
            0x88cc &&& 0xffff : to_cpu(1);
            0x8800 &&& 0xff00 : to_cpu(2);
        }
        const default_action = NoAction();
    }
    table settings {                            // no key, only a default action
        actions = { set_class; NoAction; }
        default_action = set_class(7);
    }
    apply {
        settings.apply();
        known_sources.apply();
        last_seen.write(0, (bit<32>) hdr.ethernet.ether_type);
        port_counter.count((bit<32>) standard_metadata.ingress_port & 15);
        port_meter.execute_meter((bit<32>) standard_metadata.ingress_port & 7, meta.color);
        if (hdr.packet_out.isValid()) {
            standard_metadata.egress_spec = hdr.packet_out.egress_port;
            hdr.packet_out.setInvalid();
        } else if (!fixed_ports.apply().hit) {
            if (hdr.ipv4.isValid()) {
                classes.apply();
                routes.apply();
                balanced.apply();
                rewritten.apply();
            }
        }
    }
}

control egress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard_metadata) {
    apply { }
}

control features_compute(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control features_deparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.ipv4);
    }
}

V1Switch(features_parser(), features_verify(), ingress(), egress(), features_compute(), features_deparser()) main;
