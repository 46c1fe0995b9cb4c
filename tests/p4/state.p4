// Registers, counters, meters, hashes, digests, random numbers, checksums and timestamps.
#include <core.p4>
#include <v1model.p4>

header request_t {
    bit<8>  what;
    bit<8>  index;
    bit<32> value;
}

header answer_t {
    bit<32> first;
    bit<32> second;
    bit<64> third;
    bit<48> ingress_us;
    bit<48> egress_us;
    bit<32> waited_us;
    bit<32> enqueued_us;
    bit<32> depths;
}

header ipv4_t {
    bit<4>  version;
    bit<4>  ihl;
    bit<8>  tos;
    bit<16> total_len;
    bit<16> identification;
    bit<16> fragment;
    bit<8>  ttl;
    bit<8>  protocol;
    bit<16> checksum;
    bit<32> src_addr;
    bit<32> dst_addr;
}

header udp_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<16> length;
    bit<16> checksum;
}

struct headers_t {
    request_t request;
    answer_t  answer;
    ipv4_t    ipv4;
    udp_t     udp;
}

struct seen_t {
    bit<8>  index;
    bit<32> value;
}

struct metadata_t {
    bit<32> kept;
}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.request);
        transition select(hdr.request.what) {
            8 &&& 8 : parse_ipv4;
            default : accept;
        }
    }
    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition select(hdr.ipv4.protocol) {
            17      : parse_udp;
            default : accept;
        }
    }
    state parse_udp {
        packet.extract(hdr.udp);
        transition accept;
    }
}

#define IPV4_FIELDS { hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, hdr.ipv4.identification, \
    hdr.ipv4.fragment, hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr }
#define UDP_FIELDS { hdr.ipv4.src_addr, hdr.ipv4.dst_addr, 8w0, hdr.ipv4.protocol, hdr.udp.length, \
    hdr.udp.src_port, hdr.udp.dst_port, hdr.udp.length }

control TestVerify(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.ipv4.isValid(), IPV4_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16);
        verify_checksum_with_payload(hdr.udp.isValid() && hdr.udp.checksum != 0, UDP_FIELDS, hdr.udp.checksum,
                                     HashAlgorithm.csum16);
    }
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    register<bit<32>>(16) cells;
    register<int<16>>(16) small_cells;
    counter(16, CounterType.packets_and_bytes) tally;
    meter(4, MeterType.bytes) by_bytes;
    meter(4, MeterType.packets) by_packets;

    bit<32> held;
    int<16> small;
    bit<2> colour;

    apply {
        standard.egress_spec = 2;
        standard.priority = 3;
        hdr.answer.setValid();
        hdr.answer.ingress_us = standard.ingress_global_timestamp;
        meta.kept = 7;
        if (hdr.request.what == 0) {
            cells.read(held, (bit<32>)hdr.request.index);
            hdr.answer.first = held;
            cells.write((bit<32>)hdr.request.index, hdr.request.value);
            cells.read(hdr.answer.second, (bit<32>)hdr.request.index);
        } else if (hdr.request.what == 1) {
            small_cells.write((bit<32>)hdr.request.index, (int<16>)(bit<16>)hdr.request.value);
            small_cells.read(small, (bit<32>)hdr.request.index);
            hdr.answer.first = (bit<32>)(int<32>)small;
        } else if (hdr.request.what == 2) {
            tally.count((bit<32>)hdr.request.index);
        } else if (hdr.request.what == 3) {
            by_bytes.execute_meter((bit<32>)hdr.request.index, colour);
            hdr.answer.first = (bit<32>)colour;
            by_packets.execute_meter((bit<32>)hdr.request.index, colour);
            hdr.answer.second = (bit<32>)colour;
        } else if (hdr.request.what == 4) {
            bit<16> narrow;
            hash(narrow, HashAlgorithm.crc16, 16w0, { hdr.request.index, hdr.request.value }, 32w65536);
            hdr.answer.first = (bit<32>)narrow;
            hash(hdr.answer.second, HashAlgorithm.crc32, 32w10, { hdr.request.value, hdr.request.index }, 32w1000);
            hash(hdr.answer.third, HashAlgorithm.identity, 64w0, { hdr.request.value, 4w5, hdr.request.index[3:0] },
                 64w0xFFFFFFFFFFFFFFFF);
        } else if (hdr.request.what == 5) {
            bit<16> sum;
            hash(sum, HashAlgorithm.csum16, 16w0, { hdr.request.value, hdr.request.index }, 32w65536);
            hdr.answer.first = (bit<32>)sum;
            hash(sum, HashAlgorithm.xor16, 16w0, { hdr.request.value, hdr.request.index }, 32w65536);
            hdr.answer.second = (bit<32>)sum;
        } else if (hdr.request.what == 6) {
            digest<seen_t>(1, { hdr.request.index, hdr.request.value });
            if (hdr.request.index == 255) {
                mark_to_drop(standard);
            }
        } else if (hdr.request.what == 7) {
            random(hdr.answer.first, 32w10, 32w20);
            log_msg("value {}", { hdr.request.value });
            assert(hdr.request.index != 255);
        } else {
            hdr.answer.first = (bit<32>)standard.checksum_error;
            if (hdr.ipv4.isValid()) {
                hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
            }
            if (hdr.udp.isValid() && hdr.request.index == 1) {
                hdr.udp.dst_port = 4791;
            }
        }
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        hdr.answer.egress_us = standard.egress_global_timestamp;
        hdr.answer.waited_us = standard.deq_timedelta;
        hdr.answer.enqueued_us = standard.enq_timestamp;
        hdr.answer.depths = (bit<32>)standard.enq_qdepth << 16 | (bit<32>)standard.deq_qdepth << 8 |
                            (bit<32>)standard.egress_port << 4 | meta.kept;
    }
}

control TestUpdate(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(hdr.ipv4.isValid(), IPV4_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16);
        update_checksum_with_payload(hdr.udp.isValid() && hdr.udp.checksum != 0, UDP_FIELDS, hdr.udp.checksum,
                                     HashAlgorithm.csum16);
    }
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.answer);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.udp);
    }
}

V1Switch(TestParser(), TestVerify(), TestIngress(), TestEgress(), TestUpdate(), TestDeparser()) main;
