"""The host agent: flows, stamps and the order in which a host sends. Needs only the standard library."""
