// Registered queue pairs: what a host has said of a flow of RoCEv2, kept by a hash of (source, destination, queue pair),
// and the stamps that the flow's packets would carry.
#ifndef MFS_V1MODEL_REGISTRATION_P4
#define MFS_V1MODEL_REGISTRATION_P4

#include <v1model.p4>
#include "../shared/rdma.p4"
#include "police.p4"

// A registration that is not repeated ends after this time, 1.05 s: host_agent/protocol/registration.py has it too.
const bit<32> REGISTRATION_LIFETIME_US = 0x100000;

// As the time when a registration ends: it has ended.
const bit<32> REGISTRATION_OVER = 0;

control Registration(inout headers_t hdr, inout metadata_t meta, in bit<9> ingress_port, in bit<32> now_us) {
    // What became of registrations, by outcome.
    @name(".registration")
    counter(REGISTRATION_OUTCOMES, CounterType.packets) registration;
    // How RoCEv2 packets of trusted ports got their level, by class and stage.
    @name(".rdma")
    counter(RDMA_CELLS, CounterType.packets_and_bytes) rdma;
    // Registrations by ingress port.
    @name(".police_registration")
    meter(EDGE_PORTS, MeterType.packets) police_registration;

    // The flow a cell belongs to, as a digest of (source, destination, queue pair).
    @name(".registration_flow")
    register<bit<32>>(REGISTRATION_CELLS) registration_flow;
    // When its registration ends, microseconds.
    @name(".registration_until")
    register<bit<32>>(REGISTRATION_CELLS) registration_until;
    // Stage, flags, target layer, flow number: as in the stamp.
    @name(".registration_stamp")
    register<bit<32>>(REGISTRATION_CELLS) registration_stamp;
    @name(".registration_batch")
    register<bit<32>>(REGISTRATION_CELLS) registration_batch;
    // On this switch's clock, microseconds.
    @name(".registration_deadline")
    register<bit<32>>(REGISTRATION_CELLS) registration_deadline;
    // Units of 256 bytes.
    @name(".registration_remaining")
    register<bit<32>>(REGISTRATION_CELLS) registration_remaining;

    StageOfDscp() stage_of_dscp;

    registration_outcome_t outcome;
    bit<2>  color;
    bit<32> source;
    bit<32> destination;
    bit<24> queue_pair;
    bit<32> identity;
    bit<32> cell;
    bit<32> held_flow;
    bit<32> until;
    bit<32> stamp;
    bit<32> held_batch;
    bit<32> deadline;
    bit<32> remaining;
    bit<32> message;
    bit<32> payload;
    bool    known;
    bool    live;

    // Reads who has the cell of this flow.
    action look_up() {
        hash(identity, HashAlgorithm.crc32, 32w0, { source, destination, queue_pair }, 64w0x100000000);
        cell = (bit<32>)identity[15:0];
        registration_flow.read(held_flow, cell);
        registration_until.read(until, cell);
        meta.registration_cell = cell[15:0];
        // By the difference of a clock that wraps.
        live = until != REGISTRATION_OVER && until - now_us - 1 < REGISTRATION_LIFETIME_US;
        known = held_flow == identity;
    }

    action end() {
        registration_until.write(cell, REGISTRATION_OVER);
        outcome = REGISTRATION_ENDED;
    }

    action store() {
        registration_flow.write(cell, identity);
        registration_until.write(cell, now_us + REGISTRATION_LIFETIME_US);
        registration_stamp.write(cell, hdr.mfs.stage ++ hdr.mfs.flags[3:0] ++ hdr.mfs.target_layer ++ hdr.mfs.flow);
        registration_batch.write(cell, hdr.mfs.batch);
        registration_deadline.write(cell, now_us + (bit<32>)hdr.mfs.slack);
        registration_remaining.write(cell, remaining);
        outcome = REGISTRATION_STORED;
    }

    // The stamp that the packet would carry.
    action recall() {
        registration_stamp.read(stamp, cell);
        registration_batch.read(held_batch, cell);
        registration_deadline.read(deadline, cell);
        registration_remaining.read(remaining, cell);
        hdr.mfs.setValid();
        hdr.mfs.version = MFS_VERSION;
        hdr.mfs.stage = stamp[31:28];
        hdr.mfs.flags = (bit<8>)stamp[27:24] & FLAG_OUT_OF_ORDER;
        hdr.mfs.next_type = hdr.ethernet.ether_type;
        hdr.mfs.batch = held_batch;
        hdr.mfs.flow = stamp[15:0];
        hdr.mfs.target_layer = stamp[23:16];
        hdr.mfs.current_layer = 0;
        hdr.mfs.slack = (int<32>)(deadline - now_us);
        hdr.mfs.reserved = 0;
        meta.registered = true;
        meta.rdma_class = RDMA_REGISTERED;
        meta.rdma_stage = stamp[31:28];
    }

    // As an acknowledgement would be stamped.
    action stamp_control() {
        hdr.mfs.setValid();
        hdr.mfs.version = MFS_VERSION;
        hdr.mfs.stage = STAGE_NONE;
        hdr.mfs.flags = 0;
        hdr.mfs.next_type = hdr.ethernet.ether_type;
        hdr.mfs.batch = 0;
        hdr.mfs.flow = 0;
        hdr.mfs.target_layer = 0;
        hdr.mfs.current_layer = 0;
        hdr.mfs.slack = 0;
        hdr.mfs.remaining = 0;
        hdr.mfs.reserved = 0;
        meta.registered = true;
        meta.rdma_class = RDMA_STAGE_NONE;
        meta.rdma_stage = STAGE_NONE;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            source = hdr.ipv4.src_addr;
            destination = hdr.ipv4.dst_addr;
        } else {
            hash(source, HashAlgorithm.crc32, 32w0, { hdr.ipv6.src_addr }, 64w0x100000000);
            hash(destination, HashAlgorithm.crc32, 32w0, { hdr.ipv6.dst_addr }, 64w0x100000000);
        }
        if (meta.rdma_kind == RDMA_REGISTRATION) {
            queue_pair = hdr.mfs.reserved[23:0];
            if (hdr.mfs.flags & FLAG_REVERSE != 0) {
                // The frame travels towards the sender of the flow.
                bit<32> reader = source;
                source = destination;
                destination = reader;
            }
            color = 0;
            if (!meta.trusted) {
                outcome = REGISTRATION_UNTRUSTED;
            } else if (!meta.own_source) {
                outcome = REGISTRATION_FOREIGN;
            } else if (hdr.mfs.stage == STAGE_NONE) {
                outcome = REGISTRATION_INVALID;
            } else {
                police_registration.execute_meter((bit<32>)ingress_port, color);
                look_up();
                if (color == METER_RED) {
                    outcome = REGISTRATION_EXCESS;
                } else if (hdr.mfs.flags & FLAG_LAST != 0) {
                    if (known && live) {
                        end();
                    } else {
                        outcome = REGISTRATION_UNKNOWN;
                    }
                } else if (live && !known) {
                    // The one that came first keeps the cell, so that its packets keep their level.
                    outcome = REGISTRATION_COLLISION;
                } else {
                    meta.claimed = !(known && live);
                    meta.fresh = FRESH_NOT;
                    if (hdr.mfs.flags & FLAG_FIRST != 0) {
                        meta.fresh = FRESH_DRAINED;
                    } else if (hdr.mfs.flags & FLAG_BOUNDARY != 0 || meta.claimed) {
                        meta.fresh = FRESH_FLOW;
                    }
                    registration_remaining.read(remaining, cell);
                    // What has been counted down here may be ahead of what the host knows.
                    if (meta.fresh != FRESH_NOT || hdr.mfs.remaining < remaining) {
                        remaining = hdr.mfs.remaining;
                    }
                    store();
                }
            }
            registration.count((bit<32>)outcome);
            meta.stored = outcome == REGISTRATION_STORED;
            // Refused, it goes no further.
            meta.consumed = !meta.stored && outcome != REGISTRATION_ENDED && outcome != REGISTRATION_UNKNOWN;
        } else if (meta.trusted && meta.rdma_kind == RDMA_CONTROL) {
            stamp_control();
            rdma.count((bit<32>)(rdma_cell_t)(meta.rdma_class ++ meta.rdma_stage[1:0]));
        } else if (meta.trusted && meta.rdma_kind == RDMA_DATA) {
            stage_of_dscp.apply(hdr, meta);
            queue_pair = hdr.bth.queue_pair;
            look_up();
            if (meta.own_source && known && live) {
                recall();
                message = 0;
                if (hdr.reth.isValid()) {
                    message = hdr.reth.length >> 8;
                }
                // Full packets are multiples of 256 bytes (path MTUs), so what headers are counted along does not matter.
                payload = (bit<32>)(hdr.udp.length - 24 >> 8);
                if (meta.starts == 1) {
                    hdr.mfs.flags = hdr.mfs.flags | FLAG_BOUNDARY;
                }
                if (remaining < message) {
                    // A message that is longer than what is known to remain is what remains.
                    remaining = message;
                    registration_remaining.write(cell, message);
                } else {
                    registration_remaining.write(cell, remaining |-| payload);
                }
                hdr.mfs.remaining = remaining;
                if (meta.ends == 1 && remaining <= payload + 1) {
                    hdr.mfs.flags = hdr.mfs.flags | FLAG_LAST;
                }
            }
            rdma.count((bit<32>)(rdma_cell_t)(meta.rdma_class ++ meta.rdma_stage[1:0]));
        }
    }
}

// The ratchet of a registered queue pair: what its registration says of it, and the level of its packets.
control QueuePairRatchet(in mfs_t mfs, in bit<32> now_us, inout metadata_t meta) {
    // When its last data packet came in, microseconds; at first, when it was registered.
    @name(".queue_pair_seen")
    register<bit<32>>(REGISTRATION_CELLS) queue_pair_seen;
    // What its registration has said that no packet has followed.
    @name(".queue_pair_fresh")
    register<fresh_t>(REGISTRATION_CELLS) queue_pair_fresh;
    // The level it has reached; at first, that of untagged traffic.
    @name(".queue_pair_level")
    register<wide_level_t>(REGISTRATION_CELLS) queue_pair_level;

    QueuePairRule() queue_pair_rule;

    bit<32> cell;
    bit<32> seen;
    fresh_t fresh;
    wide_level_t held_level;
    ratchet_t rule;
    bool settled;

    apply {
        cell = (bit<32>)meta.registration_cell;
        queue_pair_fresh.read(fresh, cell);
        if (meta.rdma_kind == RDMA_REGISTRATION) {
            if (meta.claimed) {
                queue_pair_seen.write(cell, now_us);
                queue_pair_level.write(cell, meta.level);
                fresh = FRESH_NOT;
            }
            if (meta.fresh > fresh) {
                fresh = meta.fresh;
            }
        } else {
            queue_pair_seen.read(seen, cell);
            queue_pair_level.read(held_level, cell);
            settled = now_us - seen > meta.idle_gap_us || mfs.flags & FLAG_OUT_OF_ORDER != 0;
            queue_pair_rule.apply(meta.starts, settled, fresh, rule);
            if (rule != RATCHET_HOLD) {
                fresh = FRESH_NOT;
            }
            // A fall to the scavenger overtakes nothing.
            if (meta.level != (wide_level_t)SCAVENGER &&
                (rule == RATCHET_HOLD || (rule == RATCHET_RISE && meta.level < held_level))) {
                meta.level = held_level;
            }
            queue_pair_seen.write(cell, now_us);
            queue_pair_level.write(cell, meta.level);
        }
        queue_pair_fresh.write(cell, fresh);
    }
}

#endif
