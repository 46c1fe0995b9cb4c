// Checks that a packet must pass to be forwarded. meta.discard_reason keeps the first reason found.
#ifndef MFS_HOP_P4
#define MFS_HOP_P4

#include "headers.p4"

control WellFormed(in headers_t hdr, in bool unparsed, inout metadata_t meta) {
    apply {
        if (unparsed || meta.bad_checksum) {
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.ipv4.isValid() && (hdr.ipv4.version != 4 || hdr.ipv4.ihl != 5)) {
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.ipv6.isValid() && hdr.ipv6.version != 6) {
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.mfs.isValid() && meta.trusted && (hdr.mfs.version != MFS_VERSION || hdr.mfs.stage > STAGE_MAX)) {
            // Stamps from ports that are not trusted are not checked.
            meta.discard_reason = DISCARD_MALFORMED;
        } else if (hdr.mfs.isValid() && meta.trusted && !meta.by_option && hdr.option_stamp.isValid() &&
                   hdr.option_stamp.version == MFS_VERSION && hdr.option_stamp.stage <= STAGE_MAX) {
            // Two stamps: one of them would be left as it is.
            meta.discard_reason = DISCARD_MALFORMED;
        } else {
            meta.discard_reason = DISCARD_NOTHING;
        }
    }
}

// Applied after routing.
control TimeToLive(inout headers_t hdr, inout metadata_t meta) {
    apply {
        if (meta.discard_reason == DISCARD_NOTHING) {
            if (!meta.routed) {
                meta.discard_reason = DISCARD_NO_ROUTE;
            } else if (hdr.ipv4.isValid() && hdr.ipv4.ttl <= 1) {
                meta.discard_reason = DISCARD_TTL;
            } else if (hdr.ipv6.isValid() && hdr.ipv6.hop_limit <= 1) {
                meta.discard_reason = DISCARD_TTL;
            }
        }
        if (hdr.ipv4.isValid()) {
            hdr.ipv4.ttl = hdr.ipv4.ttl |-| 1;
        } else if (hdr.ipv6.isValid()) {
            hdr.ipv6.hop_limit = hdr.ipv6.hop_limit |-| 1;
        }
    }
}

#endif
