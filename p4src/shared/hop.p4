// What a packet must pass to be forwarded at all. meta.discard_reason keeps the first reason found.
#ifndef MFS_HOP_P4
#define MFS_HOP_P4

#include "headers.p4"

// After the edge: a stamp that is not honoured is not judged.
control WellFormed(in headers_t hdr, in bool unparsed, inout metadata_t meta) {
    apply {
        if (unparsed || meta.bad_checksum) {
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.ipv4.isValid() && (hdr.ipv4.version != 4 || hdr.ipv4.ihl != 5)) {
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.ipv6.isValid() && hdr.ipv6.version != 6) {
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.mfs.isValid() && (hdr.mfs.version != MFS_VERSION || hdr.mfs.stage > STAGE_MAX)) {
            meta.discard_reason = DISCARD_MALFORMED;
        }
    }
}

// After routing.
control TimeToLive(inout headers_t hdr, inout metadata_t meta) {
    bool over;

    apply {
        over = false;
        if (hdr.ipv4.isValid()) {
            if (hdr.ipv4.ttl <= 1) {
                over = true;
            }
            hdr.ipv4.ttl = hdr.ipv4.ttl |-| 1;
        } else if (hdr.ipv6.isValid()) {
            if (hdr.ipv6.hop_limit <= 1) {
                over = true;
            }
            hdr.ipv6.hop_limit = hdr.ipv6.hop_limit |-| 1;
        }
        if (meta.discard_reason == DISCARD_NOTHING) {
            if (!meta.routed) {
                meta.discard_reason = DISCARD_NO_ROUTE;
            } else if (over) {
                meta.discard_reason = DISCARD_TTL;
            }
        }
    }
}

#endif
