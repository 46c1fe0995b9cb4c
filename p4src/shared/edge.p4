// The trusted edge: stamps count only where they come in by a port that is trusted; elsewhere they are removed, the shim
// here and the option where the packet leaves (carrier.p4).
#ifndef MFS_EDGE_P4
#define MFS_EDGE_P4

#include "headers.p4"

control Edge(in bit<9> ingress_port, inout metadata_t meta) {
    // untagged_level is the level of traffic without a stamp.
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

    // One entry for each ingress port in use; other ports are not trusted.
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

control StripUntrusted(inout headers_t hdr, inout metadata_t meta) {
    apply {
        if (!meta.trusted && hdr.mfs.isValid()) {
            if (!meta.by_option) {
                hdr.ethernet.ether_type = hdr.mfs.next_type;
            }
            hdr.mfs.setInvalid();
            meta.by_option = false;
        }
    }
}

#endif
