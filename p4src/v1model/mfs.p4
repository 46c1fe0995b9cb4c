// MFS on a top-of-rack switch, for v1model (bmv2 simple_switch and the embedded switch).
#include <core.p4>
#include <v1model.p4>

#include "../shared/headers.p4"
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

control MfsIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    // By reason: 0 no route, 1 malformed, 2 time to live over.
    @name(".discarded")
    counter(DISCARD_REASONS, CounterType.packets_and_bytes) discarded;

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
    Ratchet() ratchet;
    Police() police;

    apply {
        meta.bad_checksum = standard.checksum_error == 1;
        edge.apply(standard.ingress_port, meta);
        well_formed.apply(hdr, standard.parser_error != error.NoError, meta);
        strip_untrusted.apply(hdr, meta);
        route.apply(hdr, meta);
        if (meta.routed) {
            next_hop.apply(hdr, meta, standard);
        }
        // Whether or not it can be forwarded: a stamp tells of its batch all the same.
        if (meta.discard_reason == DISCARD_NOTHING && hdr.mfs.isValid()) {
            if (hdr.mfs.batch != 0) {
                progress.apply(hdr.mfs);
            }
            meta.rli = hdr.mfs.target_layer |-| hdr.mfs.current_layer;
            codes.apply(hdr.mfs, meta);
            bias.apply(standard.egress_spec, meta);
            rmlq.apply(hdr.mfs, meta);
            if (hdr.mfs.stage != STAGE_NONE) {
                ratchet.apply(hdr.mfs, meta.path.src_addr, (bit<32>)standard.ingress_global_timestamp,
                              meta.idle_gap_us, meta.level);
            }
        }
        time_to_live.apply(hdr, meta);
        if (meta.discard_reason != DISCARD_NOTHING) {
            discarded.count((bit<32>)meta.discard_reason);
            mark_to_drop(standard);
        } else {
            if (meta.trusted) {
                police.apply(standard.ingress_port, meta);
            }
            standard.priority = meta.level[2:0];
        }
    }
}

control MfsEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    Observe() observe;
    Mark() mark;
    ClassSelector() class_selector;
    LastHop() last_hop;

    apply {
        observe.apply(standard.egress_port, standard.deq_timedelta, hdr, meta);
        mark.apply(standard.deq_timedelta, hdr, meta);
        class_selector.apply(standard.egress_port, hdr, meta);
        last_hop.apply(standard.egress_port, hdr, meta);
    }
}

V1Switch(MfsParser(), MfsVerifyChecksum(), MfsIngress(), MfsEgress(), MfsComputeChecksum(), MfsDeparser()) main;
