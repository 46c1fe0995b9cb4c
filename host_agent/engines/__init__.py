"""Serving engines: KV caches over TCP, one connection per request and stage, announced to the host agent.

:mod:`host_agent.engines.vllm` is what vLLM loads. Everything else here is independent of the engine and needs only the
standard library. Pure: ``wire``, ``handshake``, ``params``, ``prefix``, ``coverage``, ``plan``. With I/O: ``channel``,
``flows``, ``gate``, ``push``, ``receive``, ``fetch``, ``store``, ``records``.
"""
