// Every operator at several widths: operands arrive in one header, results leave in one header per width.
#include <core.p4>
#include <v1model.p4>

header operands_t {
    bit<128> a;
    bit<128> b;
    bit<8>   shift;
}

#define RESULTS(W) header results_##W##_t { \
    bit<W> add; bit<W> sub; bit<W> mul; bit<W> band; bit<W> bor; bit<W> bxor; bit<W> inv; bit<W> neg; \
    bit<W> sat_add; bit<W> sat_sub; bit<W> shl; bit<W> shr; bit<W> mux; bit<W> from_signed; \
    int<W> sadd; int<W> ssub; int<W> smul; int<W> sneg; int<W> ssat_add; int<W> ssat_sub; int<W> sshr; int<W> sshl; \
    bit<8> compare; bit<8> scompare; }

RESULTS(8)
RESULTS(16)
RESULTS(24)
RESULTS(32)
RESULTS(48)
RESULTS(64)
RESULTS(128)

struct headers_t {
    operands_t operands;
    results_8_t r8;
    results_16_t r16;
    results_24_t r24;
    results_32_t r32;
    results_48_t r48;
    results_64_t r64;
    results_128_t r128;
}

struct metadata_t {}

parser TestParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.operands);
        transition accept;
    }
}

control Nothing(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

bit<8> packed(in bool a, in bool b, in bool c, in bool d, in bool e, in bool f, in bool g, in bool h) {
    bit<8> result = 0;
    result[7:7] = a ? 1w1 : 0;
    result[6:6] = b ? 1w1 : 0;
    result[5:5] = c ? 1w1 : 0;
    result[4:4] = d ? 1w1 : 0;
    result[3:3] = e ? 1w1 : 0;
    result[2:2] = f ? 1w1 : 0;
    result[1:1] = g ? 1w1 : 0;
    result[0:0] = h ? 1w1 : 0;
    return result;
}

#define COMPUTE(W) { \
    bit<W> a = (bit<W>)hdr.operands.a; \
    bit<W> b = (bit<W>)hdr.operands.b; \
    int<W> s = (int<W>)a; \
    int<W> t = (int<W>)b; \
    hdr.r##W.setValid(); \
    hdr.r##W.add = a + b; \
    hdr.r##W.sub = a - b; \
    hdr.r##W.mul = a * b; \
    hdr.r##W.band = a & b; \
    hdr.r##W.bor = a | b; \
    hdr.r##W.bxor = a ^ b; \
    hdr.r##W.inv = ~a; \
    hdr.r##W.neg = -a; \
    hdr.r##W.sat_add = a |+| b; \
    hdr.r##W.sat_sub = a |-| b; \
    hdr.r##W.shl = a << hdr.operands.shift; \
    hdr.r##W.shr = a >> hdr.operands.shift; \
    hdr.r##W.mux = a < b ? a : b; \
    hdr.r##W.from_signed = (bit<W>)(s - t); \
    hdr.r##W.sadd = s + t; \
    hdr.r##W.ssub = s - t; \
    hdr.r##W.smul = s * t; \
    hdr.r##W.sneg = -s; \
    hdr.r##W.ssat_add = s |+| t; \
    hdr.r##W.ssat_sub = s |-| t; \
    hdr.r##W.sshr = s >> hdr.operands.shift; \
    hdr.r##W.sshl = s << hdr.operands.shift; \
    hdr.r##W.compare = packed(a == b, a != b, a < b, a <= b, a > b, a >= b, a < b && b != 1, a < b || b == 1); \
    hdr.r##W.scompare = packed(s == t, s != t, s < t, s <= t, s > t, s >= t, !(s < t), (s < t) == (a < b)); \
}

control TestIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {
        COMPUTE(8)
        COMPUTE(16)
        COMPUTE(24)
        COMPUTE(32)
        COMPUTE(48)
        COMPUTE(64)
        COMPUTE(128)
        standard.egress_spec = 1;
    }
}

control TestEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply {}
}

control TestDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.r8);
        packet.emit(hdr.r16);
        packet.emit(hdr.r24);
        packet.emit(hdr.r32);
        packet.emit(hdr.r48);
        packet.emit(hdr.r64);
        packet.emit(hdr.r128);
    }
}

V1Switch(TestParser(), Nothing(), TestIngress(), TestEgress(), Nothing(), TestDeparser()) main;
