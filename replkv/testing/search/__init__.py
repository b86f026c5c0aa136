"""An exhaustive search of small worlds: the real ``raft.py`` in every order of events that a few members, entries and crashes allow.

``python -m replkv.testing.search`` searches all profiles.  A profile says who takes part, where the search begins and how often
each thing may happen; within these bounds every timeout, message, loss, repetition, sync and crash is tried in every order, and all rules
are checked in every state.  Nothing is drawn at random, so a search finds the same every time.

What it can do without bounds is its strength: no clock of a member has anything to do with that of another one, so that a timeout may
happen at any moment.  What it can't do is volume: rules that need many entries or members are the simulator's.
"""

from replkv.testing.search.explore import Result, Trace, find, named, search
from replkv.testing.search.profiles import PROFILES, Budget, Profile, Scene

__all__ = ["PROFILES", "Budget", "Profile", "Result", "Scene", "Trace", "find", "named", "search"]
