// Multi-stage flow scheduling (MFS) on a top-of-rack switch, for v1model: bmv2's simple_switch and the embedded switch.
//
// Ingress routes packets and chooses their levels, which are the queues of the reverse multi-level queue (RMLQ). Egress
// counts and marks packets.
#include <core.p4>
#include <v1model.p4>

#include "../shared/headers.p4"
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
#include "registration.p4"

control MfsIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    // By reason: 0 no route, 1 malformed, 2 time to live expired.
    @name(".discarded")
    counter(DISCARD_REASONS, CounterType.packets_and_bytes) discarded;

    Edge() edge;
    WellFormed() well_formed;
    RdmaKind() rdma_kind;
    OwnSource() own_source;
    Registration() registration;
    StripUntrusted() strip_untrusted;
    TakeFromOption() take_from_option;
    Route() route;
    NextHop() next_hop;
    TimeToLive() time_to_live;
    Progress() progress;
    Codes() codes;
    Bias() bias;
    Rmlq() rmlq;
    Ratchet() ratchet;
    QueuePairRatchet() queue_pair_ratchet;
    PassRegistration() pass_registration;
    Police() police;

    apply {
        meta.bad_checksum = standard.checksum_error == 1;
        edge.apply(standard.ingress_port, meta);
        take_from_option.apply(hdr, meta);
        well_formed.apply(hdr, standard.parser_error != error.NoError, meta);
        rdma_kind.apply(hdr, meta);
        if (meta.discard_reason == DISCARD_NOTHING && meta.rdma_kind != RDMA_OTHER) {
            own_source.apply(hdr, standard.ingress_port, meta);
            registration.apply(hdr, meta, standard.ingress_port, (bit<32>)standard.ingress_global_timestamp);
        }
        strip_untrusted.apply(hdr, meta);
        route.apply(hdr, meta);
        if (meta.routed) {
            next_hop.apply(hdr, meta, standard);
        }
        // A stamp counts even if its packet cannot be forwarded, because it reports the progress of its batch.
        if (meta.discard_reason == DISCARD_NOTHING && hdr.mfs.isValid() && !meta.consumed) {
            if (hdr.mfs.batch != 0) {
                progress.apply(hdr.mfs);
            }
            if (meta.rdma_kind == RDMA_REGISTRATION) {
                if (meta.stored) {
                    queue_pair_ratchet.apply(hdr.mfs, (bit<32>)standard.ingress_global_timestamp, meta);
                }
                if (meta.routed) {
                    pass_registration.apply(standard.egress_spec, meta);
                }
            } else {
                meta.rli = hdr.mfs.target_layer |-| hdr.mfs.current_layer;
                codes.apply(hdr.mfs, meta);
                bias.apply(standard.egress_spec, meta);
                rmlq.apply(hdr.mfs, meta);
                if (hdr.mfs.stage != STAGE_NONE) {
                    if (meta.registered) {
                        queue_pair_ratchet.apply(hdr.mfs, (bit<32>)standard.ingress_global_timestamp, meta);
                    } else {
                        ratchet.apply(hdr.mfs, meta.path.src_addr, (bit<32>)standard.ingress_global_timestamp,
                                      meta.idle_gap_us, meta.level);
                    }
                }
            }
        }
        time_to_live.apply(hdr, meta);
        if (meta.consumed) {
            mark_to_drop(standard);
        } else if (meta.discard_reason != DISCARD_NOTHING) {
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
    ForgetOption() forget_option;
    PutIntoOption() put_into_option;

    apply {
        observe.apply(standard.egress_port, standard.deq_timedelta, hdr, meta);
        mark.apply(standard.deq_timedelta, hdr, meta);
        class_selector.apply(standard.egress_port, hdr, meta);
        last_hop.apply(standard.egress_port, hdr, meta);
        forget_option.apply(hdr, meta);
        put_into_option.apply(hdr, meta);
    }
}

V1Switch(MfsParser(), MfsVerifyChecksum(), MfsIngress(), MfsEgress(), MfsComputeChecksum(), MfsDeparser()) main;
