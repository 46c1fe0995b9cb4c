"""The agent's programs in the kernel: eBPF on the hooks of an interface, and the maps shared with the agent."""
