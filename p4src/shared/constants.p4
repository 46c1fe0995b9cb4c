// Numbers that both architectures share. Stage numbers, flags and the stamp's layout are those of host_agent/stamp.py.
#ifndef MFS_CONSTANTS_P4
#define MFS_CONSTANTS_P4

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<16> ETHERTYPE_IPV6 = 0x86DD;
const bit<16> ETHERTYPE_MFS = 0x88B5;

const bit<8> PROTOCOL_TCP = 6;
const bit<8> PROTOCOL_UDP = 17;

const bit<4> MFS_VERSION = 1;

// Flag bits of the stamp, as masks of the whole field.
const bit<8> FLAG_FIRST = 0x80;
const bit<8> FLAG_BOUNDARY = 0x40;
const bit<8> FLAG_LAST = 0x20;

// Stage 0 is traffic that belongs to no stage, acknowledgements among it.
const bit<4> STAGE_NONE = 0;
const bit<4> STAGE_MAX = 3;

typedef bit<3> level_t;
const level_t SCAVENGER = 0;
// A level alone in its container, for Tofino compares and subtracts whole containers.
typedef bit<8> wide_level_t;

typedef bit<8> code_t;
const code_t CODE_MAX = 255;
// Wide enough for remaining - slack + bias before it saturates, its sign included.
typedef bit<16> wide_code_t;

// An idle gap that counts as endless, 9 minutes, and the largest: half of what Tofino's clock counts before it wraps.
const bit<32> IDLE_GAP_NEVER_US = 0x1FFFFFFF;

// Why a packet went nowhere: the index into the counter `discarded`.
typedef bit<2> discard_reason_t;
const discard_reason_t DISCARD_NO_ROUTE = 0;
const discard_reason_t DISCARD_MALFORMED = 1;
const discard_reason_t DISCARD_TTL = 2;
const discard_reason_t DISCARD_NOTHING = 3;
#define DISCARD_REASONS 4

// What becomes of the level that a flow has reached.
typedef bit<2> ratchet_t;
const ratchet_t RATCHET_RESTART = 0;   // the level just chosen takes its place
const ratchet_t RATCHET_RISE = 1;      // the higher of both
const ratchet_t RATCHET_HOLD = 2;      // it stays

// Cells of the counters, as wide as their tables are long.
typedef bit<12> port_level_t;   // egress port, level: what each level sends by each port
// Stage, level, urgency / 16. Laxity is slack x (1 - MLU), so a bucket of urgency is one of relative laxity: a factor 4
// of MLU each, 8 and above cannot make it, 15 is late.
typedef bit<9> laxity_t;
typedef bit<11> completion_t;   // stage, level, late, octave of |slack|: packets that are the last of their flow

// Table and register sizes, each table with the reason for its own.
#define EDGE_PORTS 512           // every 9-bit port
#define IPV4_ROUTES 4096         // a rack's hosts plus the fabric's prefixes
#define IPV6_ROUTES 1024         // the same, fewer: a key takes four times the TCAM on Tofino
#define NEXT_HOP_GROUPS 1024     // one for each host, one for each set of uplinks
#define NEXT_HOP_MEMBERS 2048    // members of all ECMP groups
#define NEXT_HOP_GROUP_SIZE 64   // paths of one group
#define RMLQ_ENTRIES 512         // two epochs of the largest policy
#define PROGRESS_CELLS 65536     // batches in flight: 16 hash bits keep collisions rare
#define RATCHET_CELLS 65536      // flows in flight
#define DSCP_ENTRIES 1024        // the levels of 128 ports
#define PORT_LEVEL_CELLS 4096    // 512 ports x 8 levels
#define LAXITY_CELLS 512         // 4 stages x 8 levels x 16 buckets
#define COMPLETION_CELLS 2048    // 4 stages x 8 levels x on time or late x 32 octaves

#endif
