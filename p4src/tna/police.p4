// Policing: what a port sends at the top levels beyond its meter is lowered, never dropped.
#ifndef MFS_TNA_POLICE_P4
#define MFS_TNA_POLICE_P4

#include "../shared/headers.p4"

control Police(in PortId_t ingress_port, inout metadata_t meta) {
    // Bytes at or above police_floor, by ingress port.
    @name(".police")
    Meter<PortId_t>(EDGE_PORTS, MeterType_t.BYTES) police;

    bit<8> color;

    apply {
        if ((bit<4>)meta.level >= meta.police_floor) {
            color = police.execute(ingress_port);
            if (color == (bit<8>)MeterColor_t.RED && meta.level > meta.police_level) {
                meta.level = meta.police_level;
            }
        }
    }
}

#endif
