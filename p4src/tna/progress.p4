// Progress of a batch: the highest current layer that any of its packets has shown, and back into the stamp.
#ifndef MFS_TNA_PROGRESS_P4
#define MFS_TNA_PROGRESS_P4

#include "../shared/headers.p4"

// A stateful unit reads and writes one pair of cells a packet: the batch that holds the cell, and its layer.
struct progress_t {
    bit<32> batch;
    bit<32> layer;
}

control Progress(inout mfs_t mfs) {
    // Another batch takes the cell over, and never sees its predecessor's layer.
    @name(".progress")
    Register<progress_t, bit<16>>(PROGRESS_CELLS) progress;
    Hash<bit<16>>(HashAlgorithm_t.CRC16) cell;

    RegisterAction<progress_t, bit<16>, bit<8>>(progress) advance = {
        void apply(inout progress_t held, out bit<8> layer) {
            if (held.batch != mfs.batch || held.layer <= (bit<32>)mfs.current_layer) {
                held.layer = (bit<32>)mfs.current_layer;
            }
            held.batch = mfs.batch;
            layer = (bit<8>)held.layer;
        }
    };

    apply {
        mfs.current_layer = advance.execute(cell.get({ mfs.batch }));
    }
}

#endif
