"""Tofino switches: the device config of a program, and the queues, which P4Runtime does not cover."""
