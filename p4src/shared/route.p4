// Longest-prefix match of IPv4 and IPv6 destinations to a next-hop group.
#ifndef MFS_ROUTE_P4
#define MFS_ROUTE_P4

#include "headers.p4"

control Route(in headers_t hdr, inout metadata_t meta) {
    @name(".set_next_hop_group")
    action set_next_hop_group(bit<16> group) {
        meta.routed = true;
        meta.next_hop_group = group;
    }

    @name(".no_route")
    action no_route() {
        meta.routed = false;
    }

    // Routes to the rack's hosts and to the fabric's prefixes.
    @name(".ipv4_route")
    table ipv4_route {
        key = { hdr.ipv4.dst_addr : lpm @name("dst_addr"); }
        actions = { set_next_hop_group; no_route; }
        default_action = no_route;
        size = IPV4_ROUTES;
    }

    // The same for IPv6, but fewer: a key takes four times the TCAM on Tofino.
    @name(".ipv6_route")
    table ipv6_route {
        key = { hdr.ipv6.dst_addr : lpm @name("dst_addr"); }
        actions = { set_next_hop_group; no_route; }
        default_action = no_route;
        size = IPV6_ROUTES;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            meta.path.src_addr = hdr.ipv4.src_addr;
            meta.path.dst_addr = hdr.ipv4.dst_addr;
            meta.path.protocol = hdr.ipv4.protocol;
            ipv4_route.apply();
        } else if (hdr.ipv6.isValid()) {
            meta.path.src_addr = hdr.ipv6.src_addr[31:0];
            meta.path.dst_addr = hdr.ipv6.dst_addr[31:0];
            meta.path.protocol = hdr.ipv6.next_header;
            ipv6_route.apply();
        }
        if (hdr.ports.isValid()) {
            meta.path.src_port = hdr.ports.src_port;
            meta.path.dst_port = hdr.ports.dst_port;
        }
    }
}

#endif
