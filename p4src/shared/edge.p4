// The trusted edge: stamps count only where they come in by a port that is trusted; elsewhere the shim is removed.
#ifndef MFS_EDGE_P4
#define MFS_EDGE_P4

#include "headers.p4"

control Edge(in bit<9> ingress_port, inout metadata_t meta) {
    // untagged_level: the level of traffic without a stamp.
    @name(".trust")
    action trust(level_t untagged_level, bit<4> police_floor, level_t police_level) {
        meta.trusted = true;
        meta.level = (wide_level_t)untagged_level;
        meta.police_floor = (wide_level_t)police_floor;
        meta.police_level = (wide_level_t)police_level;
    }

    @name(".distrust")
    action distrust(level_t untagged_level) {
        meta.trusted = false;
        meta.level = (wide_level_t)untagged_level;
    }

    // One row per ingress port that has hosts of ours behind it.
    @name(".edge")
    table edge {
        key = { ingress_port : exact @name("ingress_port"); }
        actions = { trust; distrust; }
        default_action = distrust(SCAVENGER);
        size = EDGE_PORTS;
    }

    apply {
        edge.apply();
    }
}

control StripUntrusted(inout headers_t hdr, in metadata_t meta) {
    apply {
        if (!meta.trusted && hdr.mfs.isValid()) {
            hdr.ethernet.ether_type = hdr.mfs.next_type;
            hdr.mfs.setInvalid();
        }
    }
}

#endif
