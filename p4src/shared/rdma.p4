// RoCEv2: what a packet is, whether its source address is of its port, and the stage that its DSCP may say.
//
// RDMA bypasses the kernel, so no host can stamp it. Hosts register their queue pairs instead, with frames that are a
// stamp and nothing else; registration.p4 of each architecture has the state. What bypasses the registration too may have
// one DSCP per stage.
#ifndef MFS_RDMA_P4
#define MFS_RDMA_P4

#include "headers.p4"

control RdmaKind(in headers_t hdr, inout metadata_t meta) {
    action data(bit<1> starts, bit<1> ends) {
        meta.rdma_kind = RDMA_DATA;
        meta.starts = starts;
        meta.ends = ends;
    }

    action control_packet() {
        meta.rdma_kind = RDMA_CONTROL;
    }

    action other() {
        meta.rdma_kind = RDMA_OTHER;
    }

    // InfiniBand Architecture Specification, volume 1, 9.2.1. The upper three bits are the transport: reliable,
    // unreliable, reliable datagram, unreliable datagram (0 to 3); congestion notifications have their own.
    table opcode {
        key = { hdr.bth.opcode : ternary; }
        actions = { data; control_packet; other; }
        const default_action = other;
        const entries = {
            0x81            : control_packet;       // congestion notification
            0x00 &&& 0x9F   : data(1, 0);    // SEND FIRST
            0x01 &&& 0x9F   : data(0, 0);   // SEND MIDDLE
            0x02 &&& 0x9E   : data(0, 1);    // SEND LAST, with immediate
            0x04 &&& 0x9E   : data(1, 1);     // SEND ONLY, with immediate
            0x06 &&& 0x9F   : data(1, 0);    // WRITE FIRST
            0x07 &&& 0x9F   : data(0, 0);   // WRITE MIDDLE
            0x08 &&& 0x9E   : data(0, 1);    // WRITE LAST, with immediate
            0x0A &&& 0x9E   : data(1, 1);     // WRITE ONLY, with immediate
            0x0C &&& 0x9F   : control_packet;       // READ request
            0x0D &&& 0x9F   : data(1, 0);    // READ response FIRST
            0x0E &&& 0x9F   : data(0, 0);   // READ response MIDDLE
            0x0F &&& 0x9F   : data(0, 1);    // READ response LAST
            0x10 &&& 0x9F   : data(1, 1);     // READ response ONLY
            0x11 &&& 0x9F   : control_packet;       // acknowledgement
            0x12 &&& 0x9F   : control_packet;       // atomic acknowledgement
            0x13 &&& 0x9F   : control_packet;       // compare and swap
            0x14 &&& 0x9F   : control_packet;       // fetch and add
            0x16 &&& 0x9F   : data(0, 1);    // SEND LAST with invalidate
            0x17 &&& 0x9F   : data(1, 1);     // SEND ONLY with invalidate
        }
    }

    apply {
        meta.rdma_kind = RDMA_OTHER;
        if (hdr.mfs.isValid()) {
            if (!meta.by_option && hdr.mfs.version == MFS_VERSION && hdr.mfs.flags & FLAG_REGISTER != 0) {
                meta.rdma_kind = RDMA_REGISTRATION;
            }
        } else if (hdr.bth.isValid()) {
            opcode.apply();
        }
    }
}

control OwnSource(in headers_t hdr, in bit<9> ingress_port, inout metadata_t meta) {
    @name(".accept_source")
    action accept_source() {
        meta.own_source = true;
    }

    @name(".refuse_source")
    action refuse_source() {
        meta.own_source = false;
    }

    // The addresses of the hosts behind each port; a row without an address for the ports to other switches, which look
    // themselves.
    @name(".ipv4_source")
    table ipv4_source {
        key = {
            ingress_port      : exact @name("ingress_port");
            hdr.ipv4.src_addr : lpm @name("src_addr");
        }
        actions = { accept_source; refuse_source; }
        default_action = refuse_source;
        size = SOURCES;
    }

    @name(".ipv6_source")
    table ipv6_source {
        key = {
            ingress_port      : exact @name("ingress_port");
            hdr.ipv6.src_addr : lpm @name("src_addr");
        }
        actions = { accept_source; refuse_source; }
        default_action = refuse_source;
        size = SOURCES_IPV6;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            ipv4_source.apply();
        } else if (hdr.ipv6.isValid()) {
            ipv6_source.apply();
        } else {
            meta.own_source = false;
        }
    }
}

control StageOfDscp(in headers_t hdr, inout metadata_t meta) {
    bit<6> dscp;

    @name(".set_stage")
    action set_stage(bit<4> stage, level_t level) {
        meta.rdma_class = RDMA_BY_DSCP;
        meta.rdma_stage = stage;
        meta.level = (wide_level_t)level;
    }

    @name(".no_stage")
    action no_stage() {
        meta.rdma_class = RDMA_UNREGISTERED;
        meta.rdma_stage = STAGE_NONE;
    }

    // The DSCPs that hosts without an agent send a stage with, and the level that it gets.
    @name(".stage_of_dscp")
    table stage_of_dscp {
        key = { dscp : exact @name("dscp"); }
        actions = { set_stage; no_stage; }
        default_action = no_stage;
        size = STAGE_DSCPS;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            dscp = hdr.ipv4.dscp;
        } else {
            dscp = hdr.ipv6.dscp;
        }
        stage_of_dscp.apply();
    }
}

// What becomes of the level that a queue pair has reached. A reliable one goes back to what it misses when packets
// overtake each other, so its level changes only where a message begins, and only once nothing waits in the old queue.
control QueuePairRule(in bit<1> starts, in bool settled, in fresh_t fresh, out ratchet_t rule) {
    apply {
        if (starts == 0 || (!settled && fresh != FRESH_DRAINED)) {
            rule = RATCHET_HOLD;
        } else if (fresh != FRESH_NOT) {
            rule = RATCHET_RESTART;
        } else {
            rule = RATCHET_RISE;
        }
    }
}

// Registrations go to other switches, and to hosts that want them.
control PassRegistration(in bit<9> egress_port, inout metadata_t meta) {
    @name(".pass_registration")
    action pass_registration(level_t level) {
        meta.level = (wide_level_t)level;
    }

    @name(".consume_registration")
    action consume_registration() {
        meta.consumed = true;
    }

    @name(".registration_egress")
    table registration_egress {
        key = { egress_port : exact @name("egress_port"); }
        actions = { pass_registration; consume_registration; }
        default_action = consume_registration;
        size = EDGE_PORTS;
    }

    apply {
        registration_egress.apply();
    }
}

#endif
