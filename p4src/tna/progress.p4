// Progress of a batch: stores the highest current layer that its packets have carried, and writes it into the stamp.
#ifndef MFS_TNA_PROGRESS_P4
#define MFS_TNA_PROGRESS_P4

#include "../shared/headers.p4"

control Progress(inout mfs_t mfs) {
    // The batch that a cell belongs to. Another batch takes the cell over and never sees the layer of the previous one.
    @name(".progress_batch")
    Register<bit<32>, bit<16>>(PROGRESS_CELLS, 0) progress_batch;
    // The highest layer seen.
    @name(".progress_layer")
    Register<bit<8>, bit<16>>(PROGRESS_CELLS, 0) progress_layer;

    Hash<bit<16>>(HashAlgorithm_t.CRC16) digest;

    bit<16> cell;
    bit<1>  known;

    RegisterAction<bit<32>, bit<16>, bit<1>>(progress_batch) claim = {
        void apply(inout bit<32> held, out bit<1> same) {
            if (held == mfs.batch) {
                same = 1;
            } else {
                same = 0;
            }
            held = mfs.batch;
        }
    };

    RegisterAction<bit<8>, bit<16>, bit<8>>(progress_layer) advance = {
        void apply(inout bit<8> held, out bit<8> layer) {
            held = max(held, mfs.current_layer);
            layer = held;
        }
    };

    RegisterAction<bit<8>, bit<16>, bit<8>>(progress_layer) restart = {
        void apply(inout bit<8> held, out bit<8> layer) {
            held = mfs.current_layer;
            layer = held;
        }
    };

    apply {
        cell = digest.get({ mfs.batch });
        known = claim.execute(cell);
        if (known == 1) {
            mfs.current_layer = advance.execute(cell);
        } else {
            mfs.current_layer = restart.execute(cell);
        }
    }
}

#endif
