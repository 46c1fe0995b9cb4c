// Registered queue pairs: what a host has said of a flow of RoCEv2, kept by a hash of (source, destination, queue pair),
// and the stamps that the flow's packets would carry.
//
// Each register is read and written in one access: by a registration or by a data packet. The stamp that a data packet
// gets is a shim until egress, where the last hop removes it.
#ifndef MFS_TNA_REGISTRATION_P4
#define MFS_TNA_REGISTRATION_P4

#include "../shared/rdma.p4"
#include "bridge.p4"

// A quarter of the cells of v1model: owners of 65,536 do not fit into a stage.
#define QUEUE_PAIR_CELLS 16384
typedef bit<14> cell_t;

// Units of 65,536 ns, whole bytes of the clock, which wrap after 78 hours: a cell that was left is free for half of that.
typedef bit<32> era_t;
const era_t REGISTRATION_LIFETIME_ERAS = 16000;

struct owner_t {
    bit<32> flow;
    era_t   until;
}

// Inputs of one register: alone in their containers, they fit into its crossbar.
@pa_container_size("ingress", "rdma_message", 32)
@pa_container_size("ingress", "rdma_payload", 32)
control Rdma(inout headers_t hdr, inout metadata_t meta, in PortId_t ingress_port, in bit<48> now) {
    // What became of registrations, by outcome.
    @name(".registration")
    Counter<bit<64>, registration_outcome_t>(REGISTRATION_OUTCOMES, CounterType_t.PACKETS) registration;
    // How RoCEv2 packets of trusted ports got their level, by class and stage.
    @name(".rdma")
    Counter<bit<64>, rdma_cell_t>(RDMA_CELLS, CounterType_t.PACKETS_AND_BYTES) rdma;
    // Registrations by ingress port.
    @name(".police_registration")
    Meter<PortId_t>(EDGE_PORTS, MeterType_t.PACKETS) police_registration;

    // The flow a cell belongs to, as a digest of (source, destination, queue pair), and when its registration ends.
    @name(".registration_owner")
    Register<owner_t, cell_t>(QUEUE_PAIR_CELLS) registration_owner;
    // The flow that took the cell last: whether or not its registration has ended, it keeps the level it has reached.
    @name(".registration_last")
    Register<bit<32>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_last;
    // As in the stamp: version and stage, flags, target layer, flow number.
    @name(".registration_stage")
    Register<bit<8>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_stage;
    @name(".registration_flags")
    Register<bit<8>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_flags;
    @name(".registration_layer")
    Register<bit<8>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_layer;
    @name(".registration_number")
    Register<bit<16>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_number;
    @name(".registration_batch")
    Register<bit<32>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_batch;
    // On this switch's clock, in ticks: a slack of 9 minutes or more, either way, is not told from another.
    @name(".registration_deadline")
    Register<bit<32>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_deadline;
    // Units of 256 bytes.
    @name(".registration_remaining")
    Register<bit<32>, cell_t>(QUEUE_PAIR_CELLS, 0) registration_remaining;

    Hash<bit<32>>(HashAlgorithm_t.CRC32) source_digest;
    Hash<bit<32>>(HashAlgorithm_t.CRC32) destination_digest;
    Hash<bit<32>>(HashAlgorithm_t.CRC32) flow_digest;

    RdmaKind() rdma_kind;
    OwnSource() own_source;
    StageOfDscp() stage_of_dscp;

    bit<32> from_addr;
    bit<32> to_addr;
    bit<32> source;
    bit<32> destination;
    bit<24> queue_pair;
    bit<32> identity;
    cell_t cell;
    era_t   era;
    tick_t  ticks;
    tick_t  slack_ticks;
    bit<8>  color;
    bit<1>  registered;
    bit<1>  taken;
    bit<1>  same;
    bit<8>  first_byte; // of the stamp: version and stage
    bit<8>  placing;    // FLAG_OUT_OF_ORDER
    bit<32> deadline;
    bit<32> message;
    bit<16> payload_bytes;
    bit<32> payload;
    bit<32> remaining;
    bool    wanted;     // a registration that may be stored
    registration_outcome_t outcome;

    // Whether the flow has the cell.
    RegisterAction<owner_t, cell_t, bit<1>>(registration_owner) look = {
        void apply(inout owner_t owner, out bit<1> yes) {
            if (owner.flow == identity && (int<32>)(owner.until - era) > 0) {
                yes = 1;
            } else {
                yes = 0;
            }
        }
    };

    // Takes the cell unless another flow has it; says whether one has.
    RegisterAction<owner_t, cell_t, bit<1>>(registration_owner) claim = {
        void apply(inout owner_t owner, out bit<1> yes) {
            if (owner.flow != identity && (int<32>)(owner.until - era) > 0) {
                yes = 1;
            } else {
                yes = 0;
                owner.flow = identity;
                owner.until = era + REGISTRATION_LIFETIME_ERAS;
            }
        }
    };

    // Gives the cell back; says whether the flow had it.
    RegisterAction<owner_t, cell_t, bit<1>>(registration_owner) end = {
        void apply(inout owner_t owner, out bit<1> yes) {
            if (owner.flow == identity && (int<32>)(owner.until - era) > 0) {
                yes = 1;
                owner.until = era;
            } else {
                yes = 0;
            }
        }
    };

    // Whether the cell is taken by the flow that took it last.
    RegisterAction<bit<32>, cell_t, bit<1>>(registration_last) follow = {
        void apply(inout bit<32> last, out bit<1> yes) {
            if (last == identity) {
                yes = 1;
            } else {
                yes = 0;
            }
            last = identity;
        }
    };

    RegisterAction<bit<8>, cell_t, bit<8>>(registration_stage) write_stage = {
        void apply(inout bit<8> value) {
            value = first_byte;
        }
    };

    RegisterAction<bit<8>, cell_t, bit<8>>(registration_stage) read_stage = {
        void apply(inout bit<8> value, out bit<8> read) {
            read = value;
        }
    };

    RegisterAction<bit<8>, cell_t, bit<8>>(registration_flags) write_flags = {
        void apply(inout bit<8> value) {
            value = placing;
        }
    };

    RegisterAction<bit<8>, cell_t, bit<8>>(registration_flags) read_flags = {
        void apply(inout bit<8> value, out bit<8> read) {
            read = value;
        }
    };

    RegisterAction<bit<8>, cell_t, bit<8>>(registration_layer) write_layer = {
        void apply(inout bit<8> value) {
            value = hdr.mfs.target_layer;
        }
    };

    RegisterAction<bit<8>, cell_t, bit<8>>(registration_layer) read_layer = {
        void apply(inout bit<8> value, out bit<8> read) {
            read = value;
        }
    };

    RegisterAction<bit<16>, cell_t, bit<16>>(registration_number) write_number = {
        void apply(inout bit<16> value) {
            value = hdr.mfs.flow;
        }
    };

    RegisterAction<bit<16>, cell_t, bit<16>>(registration_number) read_number = {
        void apply(inout bit<16> value, out bit<16> read) {
            read = value;
        }
    };

    RegisterAction<bit<32>, cell_t, bit<32>>(registration_batch) write_batch = {
        void apply(inout bit<32> value) {
            value = hdr.mfs.batch;
        }
    };

    RegisterAction<bit<32>, cell_t, bit<32>>(registration_batch) read_batch = {
        void apply(inout bit<32> value, out bit<32> read) {
            read = value;
        }
    };

    RegisterAction<bit<32>, cell_t, bit<32>>(registration_deadline) write_deadline = {
        void apply(inout bit<32> value) {
            value = deadline;
        }
    };

    RegisterAction<bit<32>, cell_t, bit<32>>(registration_deadline) read_deadline = {
        void apply(inout bit<32> value, out bit<32> read) {
            read = value;
        }
    };

    RegisterAction<bit<32>, cell_t, bit<32>>(registration_remaining) set_remaining = {
        void apply(inout bit<32> value) {
            value = message;
        }
    };

    // What has been counted down here may be ahead of what the host knows.
    RegisterAction<bit<32>, cell_t, bit<32>>(registration_remaining) lower_remaining = {
        void apply(inout bit<32> value) {
            value = min(value, message);
        }
    };

    // A message that is longer than what is known to remain is what remains.
    RegisterAction<bit<32>, cell_t, bit<32>>(registration_remaining) count_down = {
        void apply(inout bit<32> value, out bit<32> read) {
            if (value < message) {
                value = message;
            } else {
                value = value |-| payload;
            }
            read = value;
        }
    };

    action forward_key() {
        source = from_addr;
        destination = to_addr;
    }

    action reverse_key() {
        source = to_addr;
        destination = from_addr;
    }

    // An action each, for one stage does one of them.
    action convert_slack() {
        slack_ticks = TICKS_OF((bit<32>)hdr.mfs.slack);
    }

    action set_deadline() {
        deadline = ticks + slack_ticks;
    }

    // The stamp that the packet would carry.
    action insert_stamp() {
        hdr.mfs.setValid();
        hdr.mfs.next_type = hdr.ethernet.ether_type;
        hdr.mfs.current_layer = 0;
        hdr.mfs.reserved = 0;
        meta.registered = true;
    }

    action announce_stamp() {
        hdr.ethernet.ether_type = ETHERTYPE_MFS;
    }

    action set_stage() {
        hdr.mfs.version = first_byte[7:4];
        hdr.mfs.stage = first_byte[3:0];
        meta.rdma_stage = first_byte[3:0];
    }

    action cut_headers() {
        payload_bytes = hdr.udp.length - 24;
    }

    action count_units() {
        payload = (bit<32>)payload_bytes[15:8];
    }

    action take_slack() {
        slack_ticks = deadline - ticks;
    }

    action write_slack() {
        hdr.mfs.slack = (int<32>)slack_ticks >> 2;
    }

    apply {
        era = now[47:16];
        ticks = now[39:8];
        meta.registered = false;
        meta.consumed = false;
        meta.stored = false;
        meta.rdma_class = RDMA_UNREGISTERED;
        rdma_kind.apply(hdr, meta);
        own_source.apply(hdr, ingress_port, meta);
        // A digest each, for one table takes 32 bits of hash.
        if (hdr.ipv4.isValid()) {
            from_addr = hdr.ipv4.src_addr;
        } else {
            from_addr = source_digest.get({ hdr.ipv6.src_addr });
        }
        if (hdr.ipv4.isValid()) {
            to_addr = hdr.ipv4.dst_addr;
        } else {
            to_addr = destination_digest.get({ hdr.ipv6.dst_addr });
        }
        if (meta.rdma_kind == RDMA_REGISTRATION) {
            queue_pair = hdr.mfs.reserved[23:0];
        } else {
            queue_pair = hdr.bth.queue_pair;
        }
        if (meta.rdma_kind == RDMA_REGISTRATION && hdr.mfs.flags & FLAG_REVERSE != 0) {
            reverse_key();
        } else {
            forward_key();
        }
        identity = flow_digest.get({ source, destination, queue_pair });
        cell = identity[13:0];
        meta.registration_cell = (bit<16>)cell;
        registered = 0;
        same = 0;
        if (meta.discard_reason == DISCARD_NOTHING && meta.rdma_kind == RDMA_REGISTRATION) {
            wanted = false;
            color = (bit<8>)MeterColor_t.GREEN;
            if (!meta.trusted) {
                outcome = REGISTRATION_UNTRUSTED;
            } else if (!meta.own_source) {
                outcome = REGISTRATION_FOREIGN;
            } else if (hdr.mfs.stage == STAGE_NONE) {
                outcome = REGISTRATION_INVALID;
            } else {
                outcome = REGISTRATION_STORED;
                wanted = true;
                color = police_registration.execute(ingress_port);
            }
            if (color == (bit<8>)MeterColor_t.RED) {
                outcome = REGISTRATION_EXCESS;
                wanted = false;
            }
            first_byte = hdr.mfs.version ++ hdr.mfs.stage;
            placing = hdr.mfs.flags & FLAG_OUT_OF_ORDER;
            convert_slack();
            set_deadline();
        }
        if (meta.rdma_kind == RDMA_REGISTRATION) {
            if (wanted && hdr.mfs.flags & FLAG_LAST != 0) {
                registered = end.execute(cell);
                wanted = false;
                if (registered == 1) {
                    outcome = REGISTRATION_ENDED;
                } else {
                    outcome = REGISTRATION_UNKNOWN;
                }
            } else if (wanted) {
                taken = claim.execute(cell);
                if (taken == 1) {
                    outcome = REGISTRATION_COLLISION;
                    wanted = false;
                } else {
                    same = follow.execute(cell);
                }
            }
        } else if (meta.discard_reason == DISCARD_NOTHING && meta.trusted && meta.own_source &&
                   meta.rdma_kind == RDMA_DATA) {
            registered = look.execute(cell);
        }
        // Of a registration, what remains of the flow.
        message = 0;
        if (meta.rdma_kind == RDMA_REGISTRATION) {
            message = hdr.mfs.remaining;
        } else if (hdr.reth.isValid()) {
            message = hdr.reth.length >> 8;
        }
        cut_headers();
        count_units();
        if (meta.rdma_kind == RDMA_REGISTRATION) {
            if (wanted) {
                meta.stored = true;
                meta.claimed = same == 0;
                if (hdr.mfs.flags & FLAG_FIRST != 0) {
                    meta.fresh = FRESH_DRAINED;
                } else if (hdr.mfs.flags & FLAG_BOUNDARY != 0 || same == 0) {
                    meta.fresh = FRESH_FLOW;
                } else {
                    meta.fresh = FRESH_NOT;
                }
                write_stage.execute(cell);
                write_flags.execute(cell);
                write_layer.execute(cell);
                write_number.execute(cell);
                write_batch.execute(cell);
                write_deadline.execute(cell);
                if (meta.fresh != FRESH_NOT) {
                    set_remaining.execute(cell);
                } else {
                    lower_remaining.execute(cell);
                }
            }
            registration.count(outcome);
            if (outcome != REGISTRATION_STORED && outcome != REGISTRATION_ENDED && outcome != REGISTRATION_UNKNOWN) {
                meta.consumed = true;
            }
        } else if (meta.discard_reason == DISCARD_NOTHING && meta.trusted && meta.rdma_kind != RDMA_OTHER) {
            if (meta.rdma_kind == RDMA_CONTROL) {
                meta.rdma_class = RDMA_STAGE_NONE;
                insert_stamp();
                announce_stamp();
                hdr.mfs.version = MFS_VERSION;
                hdr.mfs.stage = STAGE_NONE;
                meta.rdma_stage = STAGE_NONE;
                hdr.mfs.flags = 0;
                hdr.mfs.target_layer = 0;
                hdr.mfs.flow = 0;
                hdr.mfs.batch = 0;
                hdr.mfs.slack = 0;
                hdr.mfs.remaining = 0;
            } else {
                stage_of_dscp.apply(hdr, meta);
                if (registered == 1) {
                    meta.rdma_class = RDMA_REGISTERED;
                    first_byte = read_stage.execute(cell);
                    hdr.mfs.flags = read_flags.execute(cell);
                    hdr.mfs.target_layer = read_layer.execute(cell);
                    hdr.mfs.flow = read_number.execute(cell);
                    hdr.mfs.batch = read_batch.execute(cell);
                    deadline = read_deadline.execute(cell);
                    remaining = count_down.execute(cell);
                    insert_stamp();
                    announce_stamp();
                    set_stage();
                    take_slack();
                    write_slack();
                    // This packet included.
                    hdr.mfs.remaining = remaining + payload;
                    if (meta.starts == 1) {
                        hdr.mfs.flags = hdr.mfs.flags | FLAG_BOUNDARY;
                    }
                    if (meta.ends == 1 && remaining[31:1] == 0) {
                        hdr.mfs.flags = hdr.mfs.flags | FLAG_LAST;
                    }
                }
            }
            rdma.count(meta.rdma_class ++ meta.rdma_stage[1:0], FCS_BYTES);
        }
    }
}

// The ratchet of a registered queue pair: what its registration says of it, and the level of its packets.
control RdmaRatchet(in bool honoured, in mfs_t mfs, in tick_t now, inout metadata_t meta) {
    // When its last data packet came in; at first, when it was registered.
    @name(".queue_pair_seen")
    Register<tick_t, cell_t>(QUEUE_PAIR_CELLS, 0) queue_pair_seen;
    // What its registration has said that no packet has followed.
    @name(".queue_pair_fresh")
    Register<fresh_t, cell_t>(QUEUE_PAIR_CELLS, 0) queue_pair_fresh;
    // The level it has reached; at first, that of untagged traffic.
    @name(".queue_pair_level")
    Register<wide_level_t, cell_t>(QUEUE_PAIR_CELLS, 0) queue_pair_level;

    QueuePairRule() queue_pair_rule;

    tick_t  idle_gap;
    tick_t  busy_since;
    bit<1>  idle;
    bool    settled;
    fresh_t fresh;
    ratchet_t rule;

    RegisterAction<tick_t, cell_t, bit<1>>(queue_pair_seen) touch = {
        void apply(inout tick_t held, out bit<1> before) {
            if ((int<32>)(held - busy_since) < 0) {
                before = 1;
            } else {
                before = 0;
            }
            held = now;
        }
    };

    RegisterAction<fresh_t, cell_t, fresh_t>(queue_pair_fresh) begin_fresh = {
        void apply(inout fresh_t held) {
            held = meta.fresh;
        }
    };

    RegisterAction<fresh_t, cell_t, fresh_t>(queue_pair_fresh) raise_fresh = {
        void apply(inout fresh_t held) {
            held = max(held, meta.fresh);
        }
    };

    // A message that begins once the queue has drained follows whatever was said, else only that nothing is on its way.
    RegisterAction<fresh_t, cell_t, fresh_t>(queue_pair_fresh) take_fresh = {
        void apply(inout fresh_t held, out fresh_t before) {
            before = held;
            held = FRESH_NOT;
        }
    };

    RegisterAction<fresh_t, cell_t, fresh_t>(queue_pair_fresh) take_drained = {
        void apply(inout fresh_t held, out fresh_t before) {
            before = held;
            if (held == FRESH_DRAINED) {
                held = FRESH_NOT;
            }
        }
    };

    RegisterAction<wide_level_t, cell_t, wide_level_t>(queue_pair_level) restart = {
        void apply(inout wide_level_t held, out wide_level_t reached) {
            held = meta.level;
            reached = held;
        }
    };

    RegisterAction<wide_level_t, cell_t, wide_level_t>(queue_pair_level) rise = {
        void apply(inout wide_level_t held, out wide_level_t reached) {
            held = max(held, meta.level);
            reached = held;
        }
    };

    RegisterAction<wide_level_t, cell_t, wide_level_t>(queue_pair_level) hold = {
        void apply(inout wide_level_t held, out wide_level_t reached) {
            reached = held;
        }
    };

    action convert() {
        idle_gap = TICKS_OF(meta.idle_gap_us);
    }

    action look_back() {
        busy_since = now - idle_gap;
    }

    apply {
        convert();
        look_back();
        settled = false;
        fresh = FRESH_NOT;
        if (meta.stored) {
            if (meta.claimed) {
                touch.execute(meta.registration_cell[13:0]);
                begin_fresh.execute(meta.registration_cell[13:0]);
                restart.execute(meta.registration_cell[13:0]);
            } else {
                raise_fresh.execute(meta.registration_cell[13:0]);
            }
        } else if (honoured && meta.registered && mfs.stage != STAGE_NONE) {
            idle = touch.execute(meta.registration_cell[13:0]);
            if (idle == 1 || mfs.flags & FLAG_OUT_OF_ORDER != 0) {
                settled = true;
            }
            if (meta.starts == 1 && settled) {
                fresh = take_fresh.execute(meta.registration_cell[13:0]);
            } else if (meta.starts == 1) {
                fresh = take_drained.execute(meta.registration_cell[13:0]);
            }
            queue_pair_rule.apply(meta.starts, settled, fresh, rule);
            if (rule == RATCHET_RESTART || meta.level == (wide_level_t)SCAVENGER) {
                meta.level = restart.execute(meta.registration_cell[13:0]);
            } else if (rule == RATCHET_RISE) {
                meta.level = rise.execute(meta.registration_cell[13:0]);
            } else {
                meta.level = hold.execute(meta.registration_cell[13:0]);
            }
        }
    }
}

control RdmaForwarding(in bool honoured, in PortId_t egress_port, inout metadata_t meta) {
    PassRegistration() pass_registration;

    apply {
        if (honoured && meta.routed && meta.rdma_kind == RDMA_REGISTRATION) {
            pass_registration.apply(egress_port, meta);
        }
    }
}

#endif
