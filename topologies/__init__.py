"""Topologies: the same objects feed the virtual network, the controller's forwarding entries and Mininet."""
