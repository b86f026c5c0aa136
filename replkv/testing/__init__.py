"""Whole clusters in one thread on virtual time: simulated network, disk and clocks; ``python -m replkv.testing`` runs them."""
