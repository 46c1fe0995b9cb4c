"""Policies as data, and what moves them: the tuner, effective deadlines, the coordinator."""
