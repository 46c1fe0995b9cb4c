// MFS on a top-of-rack switch, for v1model (bmv2 simple_switch and the embedded switch).
#include <core.p4>
#include <v1model.p4>

#include "../shared/headers.p4"
#include "../shared/edge.p4"
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
    Route() route;
    NextHop() next_hop;
    Progress() progress;
    Rmlq() rmlq;
    Ratchet() ratchet;
    Police() police;

    action discard(discard_reason_t reason) {
        discarded.count((bit<32>)reason);
        mark_to_drop(standard);
    }

    apply {
        if (standard.parser_error != error.NoError || standard.checksum_error == 1 ||
            (hdr.ipv4.isValid() && (hdr.ipv4.version != 4 || hdr.ipv4.ihl != 5)) ||
            (hdr.ipv6.isValid() && hdr.ipv6.version != 6)) {
            discard(DISCARD_MALFORMED);
            exit;
        }
        edge.apply(standard.ingress_port, hdr, meta);
        if (hdr.mfs.isValid() && (hdr.mfs.version != MFS_VERSION || hdr.mfs.stage > STAGE_MAX)) {
            discard(DISCARD_MALFORMED);
            exit;
        }

        route.apply(hdr, meta);
        if (meta.routed) {
            next_hop.apply(hdr, meta, standard);
        }
        if (!meta.routed) {
            discard(DISCARD_NO_ROUTE);
            exit;
        }
        if (hdr.ipv4.isValid()) {
            if (hdr.ipv4.ttl <= 1) {
                discard(DISCARD_TTL);
                exit;
            }
            hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
        } else {
            if (hdr.ipv6.hop_limit <= 1) {
                discard(DISCARD_TTL);
                exit;
            }
            hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
        }

        if (hdr.mfs.isValid()) {
            if (hdr.mfs.batch != 0) {
                progress.apply(hdr.mfs);
            }
            rmlq.apply(standard.egress_spec, hdr, meta);
            if (hdr.mfs.stage != STAGE_NONE) {
                ratchet.apply(hdr.mfs, meta.path.src_addr, (bit<32>)standard.ingress_global_timestamp, meta.idle_gap_us, meta.level);
            }
        }
        if (meta.trusted) {
            police.apply(standard.ingress_port, meta);
        }
        standard.priority = meta.level;
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
