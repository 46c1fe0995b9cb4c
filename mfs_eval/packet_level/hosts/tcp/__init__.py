"""A TCP that behaves like Linux's, as state machines without I/O: loss detection, congestion control, time stamps."""
