// MFS on a top-of-rack switch, for TNA (Tofino) and T2NA (Tofino 2).
#include <core.p4>
#if __TARGET_TOFINO__ == 2
#include <t2na.p4>
#else
#include <tna.p4>
#endif

#include "../shared/edge.p4"
#include "../shared/hop.p4"
#include "../shared/mark.p4"
#include "../shared/rmlq.p4"
#include "../shared/route.p4"
#include "next_hop.p4"
#include "observe.p4"
#include "parser.p4"
#include "police.p4"
#include "progress.p4"
#include "ratchet.p4"

// Metadata starts as zero, as on v1model: what no path has set is read all the same, the ports of a packet without any.
@pa_auto_init_metadata
// Written whether or not their header is there (write_dscp), so no field of another header may lie in the same place.
@pa_no_overlay("egress", "hdr.inner.ipv4.dscp")
@pa_no_overlay("egress", "hdr.inner.ipv6.dscp")
control MfsIngress(inout bridged_headers_t hdr, inout metadata_t meta, in ingress_intrinsic_metadata_t intrinsic,
                   in ingress_intrinsic_metadata_from_parser_t from_parser,
                   inout ingress_intrinsic_metadata_for_deparser_t for_deparser,
                   inout ingress_intrinsic_metadata_for_tm_t for_tm) {
    // By reason: 0 no route, 1 malformed, 2 time to live over.
    @name(".discarded")
    Counter<bit<64>, discard_reason_t>(DISCARD_REASONS, CounterType_t.PACKETS_AND_BYTES) discarded;

    Edge() edge;
    WellFormed() well_formed;
    StripUntrusted() strip_untrusted;
    Route() route;
    NextHop() next_hop;
    TimeToLive() time_to_live;
    Progress() progress;
    Codes() codes;
    Bias() bias;
    Rmlq() rmlq;
    Remember() remember;
    Ratchet() ratchet;
    Police() police;

    tick_t       now;
    bit<16>      cell;
    ratchet_t    rule;
    wide_level_t lowered;
    bool         excess;
    // The stamp is there, and counts.
    bool         honoured;

    action discard() {
        discarded.count(meta.discard_reason, FCS_BYTES);
        for_deparser.drop_ctl = 1;
    }

    action enqueue(in wide_level_t level) {
        for_tm.qid = (QueueId_t)level;
        hdr.bridge.level = level;
    }

    // Nothing is nested that need not be: while a block of several stages runs, no stage does anything beside it. So
    // codes and urgency are computed of packets without a stamp too, and not looked at.
    apply {
        now = intrinsic.ingress_mac_tstamp[39:8];
        codes.apply(hdr.inner.mfs, meta);
        edge.apply(intrinsic.ingress_port, meta);
        well_formed.apply(hdr.inner, from_parser.parser_err != 0, meta);
        strip_untrusted.apply(hdr.inner, meta);
        honoured = false;
        if (meta.discard_reason == DISCARD_NOTHING && hdr.inner.mfs.isValid()) {
            honoured = true;
        }
        route.apply(hdr.inner, meta);
        if (meta.routed) {
            next_hop.apply(hdr.inner, meta, for_tm.ucast_egress_port);
        }
        bias.apply(for_tm.ucast_egress_port, meta);
        time_to_live.apply(hdr.inner, meta);
        // A stamp counts whether or not its packet can be forwarded, as on v1model.
        if (honoured && hdr.inner.mfs.batch != 0) {
            progress.apply(hdr.inner.mfs);
        }
        remember.apply(honoured, hdr.inner.mfs, meta.path.src_addr, now, meta, cell, rule);
        meta.rli = hdr.inner.mfs.target_layer |-| hdr.inner.mfs.current_layer;
        if (honoured) {
            rmlq.apply(hdr.inner.mfs, meta);
        }
        ratchet.apply(honoured, hdr.inner.mfs, cell, rule, meta);
        police.apply(intrinsic.ingress_port, meta, lowered, excess);
        if (excess) {
            enqueue(lowered);
        } else {
            enqueue(meta.level);
        }
        hdr.bridge.setValid();
        hdr.bridge.remaining_code = meta.remaining_code;
        hdr.bridge.bias = meta.bias;
        hdr.bridge.arrived = now;
        if (meta.discard_reason != DISCARD_NOTHING) {
            discard();
        }
    }
}

control MfsEgress(inout bridged_headers_t hdr, inout metadata_t meta, in egress_intrinsic_metadata_t intrinsic,
                  in egress_intrinsic_metadata_from_parser_t from_parser,
                  inout egress_intrinsic_metadata_for_deparser_t for_deparser,
                  inout egress_intrinsic_metadata_for_output_port_t for_output) {
    Observe() observe;
    Mark() mark;
    ClassSelector() class_selector;
    LastHop() last_hop;

    tick_t  elapsed;
    bit<32> queued_us;

    // An action each, for one stage does one of them.
    action measure() {
        meta.level = hdr.bridge.level;
        meta.remaining_wide = (wide_code_t)hdr.bridge.remaining_code;
        meta.bias = hdr.bridge.bias;
        elapsed = from_parser.global_tstamp[39:8] - hdr.bridge.arrived;
    }

    action convert() {
        queued_us = US_OF(elapsed);
    }

    apply {
        // The intrinsic queueing time of Tofino has 18 bits of nanoseconds, a quarter of a millisecond: too short.
        measure();
        convert();
        mark.apply(queued_us, hdr.inner, meta);
        class_selector.apply(intrinsic.egress_port, hdr.inner, meta);
        observe.apply(intrinsic.egress_port, queued_us, hdr, meta);
        last_hop.apply(intrinsic.egress_port, hdr.inner, meta);
    }
}

Pipeline(MfsIngressParser(), MfsIngress(), MfsIngressDeparser(), MfsEgressParser(), MfsEgress(), MfsEgressDeparser()) pipe;

Switch(pipe) main;
