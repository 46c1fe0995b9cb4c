// Progress of a batch: stores the highest current layer that its packets have carried, and writes it into the stamp.
#ifndef MFS_V1MODEL_PROGRESS_P4
#define MFS_V1MODEL_PROGRESS_P4

#include <v1model.p4>
#include "../shared/headers.p4"

control Progress(inout mfs_t mfs) {
    // The batch that a cell belongs to. Another batch takes the cell over and never sees the layer of the previous one.
    @name(".progress_batch")
    register<bit<32>>(PROGRESS_CELLS) progress_batch;
    @name(".progress_layer")
    register<bit<8>>(PROGRESS_CELLS) progress_layer;    // the highest layer seen

    bit<16> cell;
    bit<32> held_batch;
    bit<8>  held_layer;

    apply {
        hash(cell, HashAlgorithm.crc16, 16w0, { mfs.batch }, 32w65536);
        progress_batch.read(held_batch, (bit<32>)cell);
        progress_layer.read(held_layer, (bit<32>)cell);
        if (held_batch == mfs.batch && held_layer > mfs.current_layer) {
            mfs.current_layer = held_layer;
        } else {
            progress_batch.write((bit<32>)cell, mfs.batch);
            progress_layer.write((bit<32>)cell, mfs.current_layer);
        }
    }
}

#endif
