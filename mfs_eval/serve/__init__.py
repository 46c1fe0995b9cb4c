"""A real serving engine (vLLM on CPUs) behind the switch: ``mfs serve``."""
