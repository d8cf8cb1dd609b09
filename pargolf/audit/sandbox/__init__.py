"""The sandbox: runs a foreign script in a process that the system has locked down, and probes its model."""
