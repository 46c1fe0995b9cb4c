// Congestion marking from the time queued, and what becomes of the stamp at the last MFS-aware hop.
#ifndef MFS_MARK_P4
#define MFS_MARK_P4

#include "headers.p4"

control Mark(in bit<32> queued_us, inout headers_t hdr, in metadata_t meta) {
    // Negative if the packet was queued for too long.
    bit<32> margin_us;

    @name(".mark_above")
    action mark_above(bit<32> threshold_us) {
        margin_us = threshold_us - queued_us;
    }

    @name(".never_mark")
    action never_mark() {
        margin_us = 0;
    }

    // The time for which a packet of each level may be queued without being marked.
    @name(".ecn")
    table ecn {
        key = { meta.level[2:0] : exact @name("level"); }
        actions = { mark_above; never_mark; }
        default_action = never_mark;
        size = 8;
    }

    apply {
        ecn.apply();
        if (margin_us[31:31] == 1) {
            if (hdr.ipv4.isValid() && hdr.ipv4.ecn != 0) {
                hdr.ipv4.ecn = 3;
            }
            if (hdr.ipv6.isValid() && hdr.ipv6.ecn != 0) {
                hdr.ipv6.ecn = 3;
            }
        }
    }
}

// Writes the level into the DSCP, for devices behind this switch that order packets but do not know the shim.
control ClassSelector(in bit<9> egress_port, inout headers_t hdr, in metadata_t meta) {
    @name(".write_dscp")
    action write_dscp(bit<6> dscp) {
        hdr.ipv4.dscp = dscp;
        hdr.ipv6.dscp = dscp;
    }

    @name(".keep_dscp")
    action keep_dscp() {
    }

    // One entry per level for each port behind which devices order packets by DSCP.
    @name(".dscp")
    table dscp {
        key = {
            egress_port     : exact @name("egress_port");
            meta.level[2:0] : exact @name("level");
        }
        actions = { write_dscp; keep_dscp; }
        default_action = keep_dscp;
        size = DSCP_ENTRIES;
    }

    apply {
        dscp.apply();
    }
}

control LastHop(in bit<9> egress_port, inout headers_t hdr, inout metadata_t meta) {
    @name(".keep_stamp")
    action keep_stamp() {
        meta.last_hop = false;
        meta.blank = false;
    }

    // An option loses what differs between the packets of a flow; a shim stays.
    @name(".blank_stamp")
    action blank_stamp() {
        meta.last_hop = false;
        meta.blank = true;
    }

    @name(".remove_stamp")
    action remove_stamp() {
        meta.last_hop = true;
        meta.blank = false;
    }

    // Rows for the ports to hosts: most read of the stamp only batch and progress, some do not know it.
    @name(".last_hop")
    table last_hop {
        key = { egress_port : exact @name("egress_port"); }
        actions = { keep_stamp; blank_stamp; remove_stamp; }
        default_action = keep_stamp;
        size = EDGE_PORTS;
    }

    apply {
        last_hop.apply();
        if ((meta.last_hop || meta.registered) && !meta.by_option && hdr.mfs.isValid()) {
            hdr.ethernet.ether_type = hdr.mfs.next_type;
            hdr.mfs.setInvalid();
        }
    }
}

#endif
