"""Recipes: locks, elections and other ways to agree, on top of the calls that everybody can make.

``Recipes`` adds them to a surface.
"""

from __future__ import annotations

from replkv.recipes.barrier import AsyncBarrier, Barrier
from replkv.recipes.base import offered
from replkv.recipes.counter import AsyncCounter, Counter
from replkv.recipes.double_barrier import AsyncDoubleBarrier, DoubleBarrier
from replkv.recipes.election import AsyncElection, Election
from replkv.recipes.lock import AsyncLock, Lock
from replkv.recipes.queue import AsyncPriorityQueue, AsyncQueue, PriorityQueue, Queue
from replkv.recipes.rate_limiter import AsyncRateLimiter, RateLimiter
from replkv.recipes.registry import AsyncRegistry, Registry
from replkv.recipes.rwlock import AsyncRWLock, RWLock
from replkv.recipes.semaphore import AsyncSemaphore, Semaphore
from replkv.recipes.transact import Transacting


class Recipes:
    """What can be made on a surface; a namespace's recipes keep their keys below its prefix."""

    lock = offered(Lock, AsyncLock)
    election = offered(Election, AsyncElection)
    transact = Transacting()
    rwlock = offered(RWLock, AsyncRWLock)
    semaphore = offered(Semaphore, AsyncSemaphore)
    barrier = offered(Barrier, AsyncBarrier)
    double_barrier = offered(DoubleBarrier, AsyncDoubleBarrier)
    queue = offered(Queue, AsyncQueue)
    priority_queue = offered(PriorityQueue, AsyncPriorityQueue)
    counter = offered(Counter, AsyncCounter)
    registry = offered(Registry, AsyncRegistry)
    rate_limiter = offered(RateLimiter, AsyncRateLimiter)
