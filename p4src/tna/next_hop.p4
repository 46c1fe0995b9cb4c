// Equal-cost multipath (ECMP): a hash of the five-tuple picks a member of the group that routing chose.
#ifndef MFS_TNA_NEXT_HOP_P4
#define MFS_TNA_NEXT_HOP_P4

#include "../shared/headers.p4"

control NextHop(inout headers_t hdr, inout metadata_t meta, inout PortId_t egress_port) {
    Hash<bit<16>>(HashAlgorithm_t.CRC16) path_hash;
    // P4Runtime uses one name for members and groups; here it is the name of the members.
    @name(".next_hop_selector")
    ActionProfile(NEXT_HOP_MEMBERS) next_hop_members;
    @name(".next_hop_groups")
    ActionSelector(next_hop_members, path_hash, SelectorMode_t.FAIR, NEXT_HOP_GROUP_SIZE, NEXT_HOP_GROUPS) next_hop_selector;

    @name(".forward")
    action forward(bit<9> port, bit<48> src_addr, bit<48> dst_addr) {
        egress_port = port;
        hdr.ethernet.src_addr = src_addr;
        hdr.ethernet.dst_addr = dst_addr;
    }

    // Port and Ethernet addresses of a group's members.
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
        size = NEXT_HOP_GROUPS;
    }

    apply {
        meta.routed = next_hop.apply().hit;
    }
}

#endif
