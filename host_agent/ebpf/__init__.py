"""The host agent on a server: stamps real traffic in the kernel, with eBPF on the hooks of an interface."""
