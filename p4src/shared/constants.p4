// Constants of both architectures. The stamp's layout, stage numbers and flags match host_agent/protocol/stamp.py.
#ifndef MFS_CONSTANTS_P4
#define MFS_CONSTANTS_P4

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<16> ETHERTYPE_IPV6 = 0x86DD;
const bit<16> ETHERTYPE_MFS = 0x88B5;

const bit<8> PROTOCOL_TCP = 6;
const bit<8> PROTOCOL_UDP = 17;

// RoCEv2: InfiniBand's transport headers in UDP (InfiniBand Architecture Specification, volume 1, annex A17).
const bit<16> PORT_ROCEV2 = 4791;

const bit<4> MFS_VERSION = 1;

// The TCP option that carries a stamp: kind 253 (RFC 4727), length 28, experiment identifier (RFC 6994).
const bit<32> TCP_OPTION_MFS = 0xFD1C4D46;
const bit<8> TCP_OPTION_NOP = 1;
// What Linux puts before it, 12 bytes each: two NOPs and a time stamp, or two NOPs and one SACK block.
const bit<32> TCP_OPTIONS_TIME_STAMP = 0x0101080A;
const bit<32> TCP_OPTIONS_SACK_BLOCK = 0x0101050A;
// Length of a TCP header in words that ends with the stamp, without and with those 12 bytes.
const bit<4> TCP_WORDS_OPTION_FIRST = 12;
const bit<4> TCP_WORDS_OPTION_SECOND = 15;

// Bits of the stamp's field `flags`, as masks.
const bit<8> FLAG_FIRST = 0x80;
const bit<8> FLAG_BOUNDARY = 0x40;
const bit<8> FLAG_LAST = 0x20;
const bit<8> FLAG_REGISTER = 0x10;
const bit<8> FLAG_REVERSE = 0x08;
const bit<8> FLAG_OUT_OF_ORDER = 0x04;

// Stage 0 is traffic that belongs to no stage, including acknowledgements.
const bit<4> STAGE_NONE = 0;
const bit<4> STAGE_MAX = 3;

typedef bit<3> level_t;
const level_t SCAVENGER = 0;
// A level that fills its container, because Tofino compares and subtracts whole containers.
typedef bit<8> wide_level_t;

typedef bit<8> code_t;
const code_t CODE_MAX = 255;
// Wide enough for remaining - slack + bias with its sign, before saturation.
typedef bit<16> wide_code_t;

// The largest idle gap, 9 minutes, which means never: half the period after which Tofino's clock wraps.
const bit<32> IDLE_GAP_NEVER_US = 0x1FFFFFFF;

// Why a packet was discarded; the index into the counter `discarded`.
typedef bit<2> discard_reason_t;
const discard_reason_t DISCARD_NO_ROUTE = 0;
const discard_reason_t DISCARD_MALFORMED = 1;
const discard_reason_t DISCARD_TTL = 2;
const discard_reason_t DISCARD_NOTHING = 3;
#define DISCARD_REASONS 4

// What happens to the level that a flow has reached.
typedef bit<2> ratchet_t;
const ratchet_t RATCHET_RESTART = 0;   // it is replaced by the level just chosen
const ratchet_t RATCHET_RISE = 1;      // it becomes the higher of the two
const ratchet_t RATCHET_HOLD = 2;      // it is kept

// RoCEv2: what a packet is to the program.
typedef bit<2> rdma_kind_t;
const rdma_kind_t RDMA_OTHER = 0;          // not RoCEv2, or stamped itself, or an unknown opcode
const rdma_kind_t RDMA_DATA = 1;
const rdma_kind_t RDMA_CONTROL = 2;        // acknowledgements, congestion notifications, READ requests, atomics
const rdma_kind_t RDMA_REGISTRATION = 3;   // a stamp for packets that carry none

// How a RoCEv2 packet got its level: with the stage, the index into the counter `rdma`.
typedef bit<2> rdma_class_t;
const rdma_class_t RDMA_UNREGISTERED = 0;  // that of untagged traffic
const rdma_class_t RDMA_REGISTERED = 1;
const rdma_class_t RDMA_BY_DSCP = 2;
const rdma_class_t RDMA_STAGE_NONE = 3;    // control
typedef bit<4> rdma_cell_t;                // class, stage

// What became of a registration: the index into the counter `registration`.
typedef bit<3> registration_outcome_t;
const registration_outcome_t REGISTRATION_STORED = 0;
const registration_outcome_t REGISTRATION_ENDED = 1;
const registration_outcome_t REGISTRATION_UNKNOWN = 2;    // the end of a flow that is not registered
const registration_outcome_t REGISTRATION_UNTRUSTED = 3;  // from a port whose stamps do not count
const registration_outcome_t REGISTRATION_FOREIGN = 4;    // the source address is not of the port
const registration_outcome_t REGISTRATION_EXCESS = 5;     // beyond the port's rate
const registration_outcome_t REGISTRATION_COLLISION = 6;  // another flow has the cell
const registration_outcome_t REGISTRATION_INVALID = 7;    // no stage

// What a registration has said that its queue pair has not yet followed.
typedef bit<8> fresh_t;
const fresh_t FRESH_NOT = 0;
const fresh_t FRESH_FLOW = 1;      // another flow; packets of earlier ones may be on their way
const fresh_t FRESH_DRAINED = 2;   // another flow, and nothing of the queue pair is on its way

// Indices into the counters, each as wide as its counter's size requires.
typedef bit<12> port_level_t;   // egress port, level: traffic of each level on each port
// Stage, level, urgency / 16. Laxity is slack x (1 - MLU), where MLU is the minimal link utilisation, so a bucket of
// urgency is a bucket of relative laxity. Each bucket spans a factor of 4 in MLU. Flows in bucket 8 and above cannot
// meet their deadline; late packets are in bucket 15.
typedef bit<9> laxity_t;
typedef bit<11> completion_t;   // stage, level, late, octave of |slack|: last packets of flows

// Sizes of tables, registers and counters, each with its reason.
#define EDGE_PORTS 512           // every 9-bit port number
#define IPV4_ROUTES 4096         // a rack's hosts plus the fabric's prefixes
#define IPV6_ROUTES 1024         // the same, but fewer: a key takes four times the TCAM on Tofino
#define NEXT_HOP_GROUPS 1024     // one per host, one per set of uplinks
#define NEXT_HOP_MEMBERS 2048    // members of all equal-cost multipath (ECMP) groups
#define NEXT_HOP_GROUP_SIZE 64   // paths per group
#define RMLQ_ENTRIES 512         // reverse multi-level queue (RMLQ): two epochs of the largest policy
#define PROGRESS_CELLS 65536     // batches in flight: 16 hash bits keep collisions rare
#define RATCHET_CELLS 65536      // flows in flight
#define DSCP_ENTRIES 1024        // 128 ports x 8 levels
#define SOURCES 4096             // addresses of the hosts behind each port: as many as routes
#define SOURCES_IPV6 1024        // the same, fewer, as routes
#define STAGE_DSCPS 64           // every DSCP
#define REGISTRATION_CELLS 65536 // queue pairs in use: 16 hash bits keep collisions rare
#define REGISTRATION_OUTCOMES 8
#define RDMA_CELLS 16            // 4 classes x 4 stages
#define PORT_LEVEL_CELLS 4096    // 512 ports x 8 levels
#define LAXITY_CELLS 512         // 4 stages x 8 levels x 16 buckets
#define COMPLETION_CELLS 2048    // 4 stages x 8 levels x on time or late x 32 octaves

#endif
