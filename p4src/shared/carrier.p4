// Stamps in a TCP option: the pipeline works on a copy in hdr.mfs, as if it had come in the shim, and the option gets it
// back where the packet leaves. Whoever deparses mends the TCP checksum.
#ifndef MFS_CARRIER_P4
#define MFS_CARRIER_P4

#include "headers.p4"

// Before everything else, so that nothing waits for the copy. An option of another version or stage is left as it came, and
// its packet is untagged.
control TakeFromOption(inout headers_t hdr, inout metadata_t meta) {
    apply {
        meta.by_option = false;
        if (!hdr.mfs.isValid() && hdr.option_stamp.isValid() && hdr.option_stamp.version == MFS_VERSION &&
            hdr.option_stamp.stage <= STAGE_MAX) {
            hdr.mfs = hdr.option_stamp;
            meta.by_option = true;
        }
    }
}

// After all changes of the stamp: layer and slack are what changes. One action does it all, since Tofino needs a stage for
// each that follows another.
control PutIntoOption(inout headers_t hdr, in metadata_t meta) {
    action put() {
        hdr.option_stamp.current_layer = hdr.mfs.current_layer;
        hdr.option_stamp.slack = hdr.mfs.slack;
    }

    // Without what differs between the packets of a flow: receive offload merges packets only if their options are equal.
    // Batch and progress stay, which is what receivers read.
    action put_blank() {
        hdr.option_stamp.current_layer = hdr.mfs.current_layer;
        hdr.option_stamp.flags = 0;
        hdr.option_stamp.slack = 0;
        hdr.option_stamp.remaining = 0;
    }

    // The option becomes 28 NOPs: its bytes cannot be cut out without moving the payload.
    action erase() {
        hdr.tcp_option.kind = TCP_OPTION_NOP;
        hdr.tcp_option.length = TCP_OPTION_NOP;
        hdr.tcp_option.experiment = 0x0101;
        hdr.option_stamp.version = 0;
        hdr.option_stamp.stage = 1;
        hdr.option_stamp.flags = TCP_OPTION_NOP;
        hdr.option_stamp.next_type = 0x0101;
        hdr.option_stamp.batch = 0x01010101;
        hdr.option_stamp.flow = 0x0101;
        hdr.option_stamp.target_layer = TCP_OPTION_NOP;
        hdr.option_stamp.current_layer = TCP_OPTION_NOP;
        hdr.option_stamp.slack = 0x01010101;
        hdr.option_stamp.remaining = 0x01010101;
        hdr.option_stamp.reserved = 0x01010101;
    }

    apply {
        if (hdr.tcp_option.isValid()) {
            if (!meta.trusted || meta.last_hop) {
                erase();
            } else if (meta.by_option) {
                if (meta.blank) {
                    put_blank();
                } else {
                    put();
                }
            }
        }
        if (meta.by_option) {
            hdr.mfs.setInvalid();
        }
    }
}

#endif
