"""The serving model: requests, batches, prefill units, caches, costs and objectives."""
