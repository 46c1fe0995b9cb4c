// Without registered flows of RoCEv2: what the pipeline calls, and does nothing. A registration is a stamp like any other,
// which is dropped so that no host gets it.
#ifndef MFS_TNA_NO_REGISTRATION_P4
#define MFS_TNA_NO_REGISTRATION_P4

#include "../shared/headers.p4"
#include "bridge.p4"

control Rdma(inout headers_t hdr, inout metadata_t meta, in PortId_t ingress_port, in bit<48> now) {
    apply {
        meta.rdma_kind = RDMA_OTHER;
        meta.registered = false;
        meta.consumed = false;
        if (hdr.mfs.isValid() && !meta.by_option && hdr.mfs.flags & FLAG_REGISTER != 0) {
            meta.consumed = true;
        }
    }
}

control RdmaRatchet(in bool honoured, in mfs_t mfs, in tick_t now, inout metadata_t meta) {
    apply {
    }
}

control RdmaForwarding(in bool honoured, in PortId_t egress_port, inout metadata_t meta) {
    apply {
    }
}

#endif
