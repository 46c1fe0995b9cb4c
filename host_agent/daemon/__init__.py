"""The agent's process: hooks and traffic classes of an interface, and the socket for flows. Needs the extra ``net``."""
