"""The command line, ``replkv`` or ``python -m replkv``: a cluster looked at and used from a shell; docs/CLI.md describes it.

``plain`` has the commands that need the standard library only, ``app`` all the others: they need click and rich, which come with
``replkv[cli]``.
"""
