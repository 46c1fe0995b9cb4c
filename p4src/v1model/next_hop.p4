// Equal-cost multipath (ECMP): a hash of the five-tuple picks a member of the group that routing chose.
#ifndef MFS_V1MODEL_NEXT_HOP_P4
#define MFS_V1MODEL_NEXT_HOP_P4

#include <v1model.p4>
#include "../shared/headers.p4"

control NextHop(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    @name(".next_hop_selector")
    @max_group_size(NEXT_HOP_GROUP_SIZE)
    action_selector(HashAlgorithm.crc16, NEXT_HOP_MEMBERS, 16) next_hop_selector;

    @name(".forward")
    action forward(bit<9> port, bit<48> src_addr, bit<48> dst_addr) {
        standard.egress_spec = port;
        hdr.ethernet.src_addr = src_addr;
        hdr.ethernet.dst_addr = dst_addr;
    }

    // Port and Ethernet addresses of a group's members. p4c warns that bmv2 supports no default action here; none
    // is needed.
    @name(".next_hop")
    table next_hop {
        key = {
            meta.next_hop_group : exact @name("group");
            meta.path.src_addr  : selector;
            meta.path.dst_addr  : selector;
            meta.path.protocol  : selector;
            meta.path.src_port  : selector;
            meta.path.dst_port  : selector;
        }
        actions = { forward; @defaultonly NoAction; }
        implementation = next_hop_selector;
        // On bmv2 a table with an action profile has no default action, so a miss is detected by hit, below.
        size = NEXT_HOP_GROUPS;
    }

    apply {
        meta.routed = next_hop.apply().hit;
    }
}

#endif
