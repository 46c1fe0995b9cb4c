"""A virtual clock, and a network of switches and hosts on it."""
