// Policing: traffic at the top levels that exceeds the ingress port's meter is lowered to police_level, never dropped.
#ifndef MFS_V1MODEL_POLICE_P4
#define MFS_V1MODEL_POLICE_P4

#include <v1model.p4>
#include "../shared/headers.p4"

const bit<2> METER_RED = 2;

control Police(in bit<9> ingress_port, inout metadata_t meta) {
    // Bytes at levels from police_floor up, by ingress port.
    @name(".police")
    meter(EDGE_PORTS, MeterType.bytes) police;

    bit<2> color;

    apply {
        if (meta.level >= meta.police_floor) {
            police.execute_meter((bit<32>)ingress_port, color);
            if (color == METER_RED && meta.level > meta.police_level) {
                meta.level = meta.police_level;
            }
        }
    }
}

#endif
