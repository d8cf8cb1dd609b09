"""Somebody else's script, run in a process that the system has locked down, and its model probed."""
