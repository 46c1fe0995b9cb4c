"""What a Tofino switch needs beside P4Runtime entries: its device config, and its queues over BF Runtime."""
