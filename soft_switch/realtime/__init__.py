"""The embedded switch on real interfaces: packet sockets, paced ports, and the loop that joins them to the pipeline."""
