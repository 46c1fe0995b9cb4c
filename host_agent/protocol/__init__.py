"""What hosts, switch and controller must agree on: the stamp, the level decision, flows, the policy document."""
