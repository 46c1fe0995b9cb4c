"""Setup that both engines share: scenarios, workloads, settings, policies and variants."""
