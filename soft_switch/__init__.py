"""A software switch that runs compiled P4 programs (v1model) on simulated or real time, without bmv2.

:class:`~soft_switch.pipeline.Pipeline` is one loaded program: ``Pipeline.load(json)``, then its tables, counters,
meters and registers for the control plane, and ``ingress`` and ``egress`` for packets.
"""
