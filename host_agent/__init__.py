"""The host agent: flows, stamps and the order in which a host sends them. Depends on nothing but the standard library."""
