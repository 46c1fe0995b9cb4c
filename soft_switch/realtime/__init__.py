"""The switch on network interfaces: packet sockets, paced ports, and the loop that connects them to the pipeline."""
