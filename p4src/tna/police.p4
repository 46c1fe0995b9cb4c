// Policing: traffic at the top levels that exceeds the ingress port's meter is lowered to police_level, never dropped.
#ifndef MFS_TNA_POLICE_P4
#define MFS_TNA_POLICE_P4

#include "bridge.p4"

control Police(in PortId_t ingress_port, in metadata_t meta, out wide_level_t lowered, out bool excess) {
    // Bytes at levels from police_floor up, by ingress port.
    @name(".police")
    Meter<PortId_t>(EDGE_PORTS, MeterType_t.BYTES) police;

    wide_level_t below_floor;
    bit<8>       color;

    action compare() {
        below_floor = meta.police_floor |-| meta.level;
        lowered = min(meta.level, meta.police_level);
        color = (bit<8>)MeterColor_t.GREEN;
    }

    apply {
        compare();
        if (meta.discard_reason == DISCARD_NOTHING && meta.trusted && below_floor == 0) {
            color = police.execute(index = ingress_port, adjust_byte_count = FCS_BYTES);
        }
        excess = color == (bit<8>)MeterColor_t.RED;
    }
}

#endif
