"""Runs over real sockets between network namespaces."""
