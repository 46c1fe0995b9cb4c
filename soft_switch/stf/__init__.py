"""Runs scripts in p4c's Simple Test Framework (STF) on the embedded switch: ``mfs stf --help``."""
