"""The process that owns an interface: its hooks and classes, and the socket for flows. Needs the extra ``net``."""
