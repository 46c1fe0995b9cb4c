// The pipeline. Whoever includes this has included the architecture, and what defines Rdma, RdmaRatchet and
// RdmaForwarding.
#ifndef MFS_TNA_PIPELINE_P4
#define MFS_TNA_PIPELINE_P4

#include "../shared/carrier.p4"
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

// Metadata is initially zero, as on v1model: some fields are read without having been set, such as the ports of a
// packet that has none.
@pa_auto_init_metadata
// write_dscp writes these fields even if their header is invalid, so they must not share space with other headers.
@pa_no_overlay("egress", "hdr.inner.ipv4.dscp")
@pa_no_overlay("egress", "hdr.inner.ipv6.dscp")
control MfsIngress(inout bridged_headers_t hdr, inout metadata_t meta, in ingress_intrinsic_metadata_t intrinsic,
                   in ingress_intrinsic_metadata_from_parser_t from_parser,
                   inout ingress_intrinsic_metadata_for_deparser_t for_deparser,
                   inout ingress_intrinsic_metadata_for_tm_t for_tm) {
    // By reason: 0 no route, 1 malformed, 2 time to live expired.
    @name(".discarded")
    Counter<bit<64>, discard_reason_t>(DISCARD_REASONS, CounterType_t.PACKETS_AND_BYTES) discarded;

    Edge() edge;
    WellFormed() well_formed;
    StripUntrusted() strip_untrusted;
    TakeFromOption() take_from_option;
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
    Rdma() rdma;
    RdmaRatchet() rdma_ratchet;
    RdmaForwarding() rdma_forwarding;

    tick_t       now;
    bit<16>      cell;
    ratchet_t    rule;
    wide_level_t lowered;
    bool         excess;
    // The packet has a stamp, and the stamp counts.
    bool         honoured;
    bool         stamped;

    action discard() {
        discarded.count(meta.discard_reason, FCS_BYTES);
        for_deparser.drop_ctl = 1;
    }

    action consume() {
        for_deparser.drop_ctl = 1;
    }

    action enqueue(in wide_level_t level) {
        for_tm.qid = (QueueId_t)level;
        hdr.bridge.level = level;
    }

    // Nesting is avoided where possible: while a nested block of several stages runs, nothing runs beside it. Therefore
    // codes and urgency are computed for packets without a stamp as well, but not used.
    apply {
        now = intrinsic.ingress_mac_tstamp[39:8];
        edge.apply(intrinsic.ingress_port, meta);
        take_from_option.apply(hdr.inner, meta);
        well_formed.apply(hdr.inner, from_parser.parser_err != 0, meta);
        rdma.apply(hdr.inner, meta, intrinsic.ingress_port, intrinsic.ingress_mac_tstamp);
        codes.apply(hdr.inner.mfs, meta);
        strip_untrusted.apply(hdr.inner, meta);
        honoured = false;
        if (meta.discard_reason == DISCARD_NOTHING && hdr.inner.mfs.isValid() && !meta.consumed) {
            honoured = true;
        }
        route.apply(hdr.inner, meta);
        if (meta.routed) {
            next_hop.apply(hdr.inner, meta, for_tm.ucast_egress_port);
        }
        bias.apply(for_tm.ucast_egress_port, meta);
        time_to_live.apply(hdr.inner, meta);
        // A stamp counts even if its packet cannot be forwarded, as on v1model.
        if (honoured && hdr.inner.mfs.batch != 0) {
            progress.apply(hdr.inner.mfs);
        }
        // Packets whose stamp was made up here have a ratchet of their own.
        stamped = honoured;
        if (meta.registered || meta.rdma_kind == RDMA_REGISTRATION) {
            stamped = false;
        }
        remember.apply(stamped, hdr.inner.mfs, meta.path.src_addr, now, meta, cell, rule);
        meta.rli = hdr.inner.mfs.target_layer |-| hdr.inner.mfs.current_layer;
        if (honoured && meta.rdma_kind != RDMA_REGISTRATION) {
            rmlq.apply(hdr.inner.mfs, meta);
        }
        ratchet.apply(stamped, hdr.inner.mfs, cell, rule, meta);
        rdma_ratchet.apply(honoured, hdr.inner.mfs, now, meta);
        rdma_forwarding.apply(honoured, for_tm.ucast_egress_port, meta);
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
        hdr.bridge.current_layer = hdr.inner.mfs.current_layer;
        hdr.bridge.carried = CARRIED_NOT;
        if (!meta.trusted) {
            hdr.bridge.carried = CARRIED_ERASE;
        } else if (meta.by_option) {
            // It travels in the option as it came in.
            hdr.bridge.carried = CARRIED_STAMP;
            hdr.inner.mfs.setInvalid();
        }
        if (meta.registered) {
            hdr.bridge.registered = 1;
        } else {
            hdr.bridge.registered = 0;
        }
        if (meta.consumed) {
            consume();
        } else if (meta.discard_reason != DISCARD_NOTHING) {
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
    PutIntoOption() put_into_option;

    tick_t  elapsed;
    bit<32> queued_us;

    // Separate actions, because each takes a stage.
    action measure() {
        meta.level = hdr.bridge.level;
        meta.remaining_wide = (wide_code_t)hdr.bridge.remaining_code;
        meta.bias = hdr.bridge.bias;
        elapsed = from_parser.global_tstamp[39:8] - hdr.bridge.arrived;
    }

    // What egress reads of the stamp, in one action, with the layer that ingress knew.
    action copy_option() {
        hdr.inner.mfs.setValid();
        hdr.inner.mfs.version = hdr.inner.option_stamp.version;
        hdr.inner.mfs.stage = hdr.inner.option_stamp.stage;
        hdr.inner.mfs.flags = hdr.inner.option_stamp.flags;
        hdr.inner.mfs.target_layer = hdr.inner.option_stamp.target_layer;
        hdr.inner.mfs.current_layer = hdr.bridge.current_layer;
        hdr.inner.mfs.slack = hdr.inner.option_stamp.slack;
        hdr.inner.mfs.remaining = hdr.inner.option_stamp.remaining;
    }

    action convert() {
        queued_us = US_OF(elapsed);
    }

    apply {
        // Not by an assignment of the comparison, which the compiler for Tofino refuses.
        meta.registered = false;
        if (hdr.bridge.registered == 1) {
            meta.registered = true;
        }
        // Tofino's intrinsic queueing time is too short: its 18 bits of nanoseconds are a quarter of a millisecond.
        measure();
        convert();
        meta.trusted = true;
        if (hdr.bridge.carried == CARRIED_ERASE) {
            meta.trusted = false;
        }
        meta.by_option = false;
        if (hdr.bridge.carried == CARRIED_STAMP) {
            meta.by_option = true;
            copy_option();
        }
        mark.apply(queued_us, hdr.inner, meta);
        class_selector.apply(intrinsic.egress_port, hdr.inner, meta);
        observe.apply(intrinsic.egress_port, queued_us, hdr, meta);
        last_hop.apply(intrinsic.egress_port, hdr.inner, meta);
        put_into_option.apply(hdr.inner, meta);
    }
}

Pipeline(MfsIngressParser(), MfsIngress(), MfsIngressDeparser(), MfsEgressParser(), MfsEgress(), MfsEgressDeparser()) pipe;

Switch(pipe) main;

#endif
