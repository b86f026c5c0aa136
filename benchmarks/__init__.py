"""Measures replkv beside etcd, and its locks beside ZooKeeper's too, on this machine: ``python -m benchmarks --help``.

Both get three members on loopback with data directories on a real disk, the same keys and values, and one driver in Python: replkv's is a
thread inside a member's process, as in an application that embeds it; etcd's is a process with a grpcio channel.
"""
