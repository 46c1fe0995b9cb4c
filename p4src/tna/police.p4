// Policing: what a port sends at the top levels beyond its meter is lowered, never dropped.
#ifndef MFS_TNA_POLICE_P4
#define MFS_TNA_POLICE_P4

#include "../shared/headers.p4"

control Police(in PortId_t ingress_port, inout metadata_t meta) {
    // Bytes at or above police_floor, by ingress port.
    @name(".police")
    Meter<PortId_t>(EDGE_PORTS, MeterType_t.BYTES) police;

    // Eight bits wide, as the smallest container is, since whole containers are subtracted and compared.
    bit<8> level;
    bit<8> below_floor;
    bit<8> lowered;
    bit<8> color;

    bit<8> floor;
    bit<8> ceiling;

    action widen() {
        level = 5w0 ++ meta.level;
        floor = 4w0 ++ meta.police_floor;
        ceiling = 5w0 ++ meta.police_level;
    }

    action compare() {
        below_floor = floor |-| level;
        lowered = min(level, ceiling);
    }

    apply {
        widen();
        compare();
        color = (bit<8>)MeterColor_t.GREEN;
        if (below_floor == 0) {
            color = police.execute(ingress_port);
        }
        if (color == (bit<8>)MeterColor_t.RED) {
            meta.level = lowered[2:0];
        }
    }
}

#endif
