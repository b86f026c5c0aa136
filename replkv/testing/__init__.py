"""Whole clusters in one thread on virtual time: simulated network, disk and clocks; ``python -m replkv.testing`` runs them.

``Cluster`` and ``AsyncCluster`` are for users' own tests: docs/TESTING.md.
"""

from replkv.testing.virtual_cluster import AsyncCluster, Cluster
from replkv.testing.world import Stuck

__all__ = ["AsyncCluster", "Cluster", "Stuck"]
