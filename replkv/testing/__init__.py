"""Test a cluster, and programs that use one, in one thread on virtual time: simulated network, disk and clocks."""
