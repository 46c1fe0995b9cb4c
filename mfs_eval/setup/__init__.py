"""What both engines share: scenarios, workloads, policies, variants."""
