"""replkv: strongly consistent replicated state inside your process.

``Replica`` embeds one member of a cluster; ``AsyncReplica`` is the same for asyncio; ``connect`` has the
same calls for processes that are no members.  docs/ARCHITECTURE.md is the way into the source.
"""

import logging

from replkv.acting import ActingReplica, AsyncActingReplica
from replkv.aio import AsyncReplica
from replkv.auth_calls import AsyncAuth, AuthStatus, BlockingAuth, Permission, Role, User
from replkv.awaiting import AsyncNamespace
from replkv.backup import Backup
from replkv.blocking import Namespace
from replkv.client import AsyncClient, Client, connect
from replkv.config import Config, Settings
from replkv.errors import (
    AuthenticationFailed,
    AuthRefused,
    Closed,
    Compacted,
    Conflict,
    Corrupt,
    DirectoryInUse,
    DiskFull,
    DuplicateKey,
    ForkedProcess,
    FutureRevision,
    Incompatible,
    InvariantBroken,
    KeyNotFound,
    LeaseExists,
    LeaseNotFound,
    LevelTooLow,
    LockLost,
    MemberExists,
    MemberNotFound,
    MembershipRefused,
    NoLeader,
    NotACounter,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    Rejected,
    Removed,
    ReplkvError,
    RoleExists,
    RoleNotFound,
    StorageError,
    TooLarge,
    TooManyOps,
    TooStale,
    Unavailable,
    UserExists,
    UserNotFound,
    WaitTimeout,
    WrongCluster,
)
from replkv.feed import Watched
from replkv.leasing import AsyncLease, AsyncLost, Lease, Lost
from replkv.mapping import AsyncMapping, ReplicatedMapping
from replkv.new_cluster import NewCluster, recover_lost_majority, restore
from replkv.ops import KEEP, Add, Compare, Delete, Fenced, Get, Guard, Keep, Key, LeaseLike, Operation, Put, Scan, SortBy, Txn
from replkv.recipes.barrier import AsyncBarrier, Barrier
from replkv.recipes.counter import AsyncCounter, Counter
from replkv.recipes.double_barrier import AsyncDoubleBarrier, DoubleBarrier
from replkv.recipes.election import AsyncElection, AsyncLeaders, AsyncTerm, Election, Leader, Leaders, Term
from replkv.recipes.lock import AsyncLock, Lock
from replkv.recipes.queue import AsyncClaim, AsyncPriorityQueue, AsyncQueue, Claim, PriorityQueue, Queue
from replkv.recipes.rate_limiter import AsyncRateLimiter, RateLimiter
from replkv.recipes.registry import AsyncRegistration, AsyncRegistry, Registration, Registry
from replkv.recipes.rwlock import AsyncRWLock, AsyncRWLockSide, RWLock, RWLockSide
from replkv.recipes.semaphore import AsyncSemaphore, Semaphore
from replkv.recipes.transact import AsyncTransaction, Transaction
from replkv.replica import Replica
from replkv.sigterm import exit_on_sigterm
from replkv.status import Member, Status, Transfer
from replkv.surface import Consistency, Timeout
from replkv.tls import TLS
from replkv.typedcodec import typed
from replkv.valuecodec import Codec, CodecName, Undecodable
from replkv.values import (
    AddResult,
    Data,
    DeleteResult,
    Event,
    EventKind,
    KeyValue,
    LeaseInfo,
    Progress,
    PutResult,
    ScanResult,
    Synced,
    TxnResult,
)
from replkv.view import AsyncView, Change, Changes, View
from replkv.watching import AsyncWatch, Watch

__version__ = "0.1.0"

__all__ = [
    "KEEP",
    "TLS",
    "ActingReplica",
    "Add",
    "AddResult",
    "AsyncActingReplica",
    "AsyncAuth",
    "AsyncBarrier",
    "AsyncClaim",
    "AsyncClient",
    "AsyncCounter",
    "AsyncDoubleBarrier",
    "AsyncElection",
    "AsyncLeaders",
    "AsyncLease",
    "AsyncLock",
    "AsyncLost",
    "AsyncMapping",
    "AsyncNamespace",
    "AsyncPriorityQueue",
    "AsyncQueue",
    "AsyncRWLock",
    "AsyncRWLockSide",
    "AsyncRateLimiter",
    "AsyncRegistration",
    "AsyncRegistry",
    "AsyncReplica",
    "AsyncSemaphore",
    "AsyncTerm",
    "AsyncTransaction",
    "AsyncView",
    "AsyncWatch",
    "AuthRefused",
    "AuthStatus",
    "AuthenticationFailed",
    "Backup",
    "Barrier",
    "BlockingAuth",
    "Change",
    "Changes",
    "Claim",
    "Client",
    "Closed",
    "Codec",
    "CodecName",
    "Compacted",
    "Compare",
    "Config",
    "Conflict",
    "Consistency",
    "Corrupt",
    "Counter",
    "Data",
    "Delete",
    "DeleteResult",
    "DirectoryInUse",
    "DiskFull",
    "DoubleBarrier",
    "DuplicateKey",
    "Election",
    "Event",
    "EventKind",
    "Fenced",
    "ForkedProcess",
    "FutureRevision",
    "Get",
    "Guard",
    "Incompatible",
    "InvariantBroken",
    "Keep",
    "Key",
    "KeyNotFound",
    "KeyValue",
    "Leader",
    "Leaders",
    "Lease",
    "LeaseExists",
    "LeaseInfo",
    "LeaseLike",
    "LeaseNotFound",
    "LevelTooLow",
    "Lock",
    "LockLost",
    "Lost",
    "Member",
    "MemberExists",
    "MemberNotFound",
    "MembershipRefused",
    "Namespace",
    "NewCluster",
    "NoLeader",
    "NotACounter",
    "Operation",
    "OutcomeUnknown",
    "Overloaded",
    "Permission",
    "PermissionDenied",
    "PriorityQueue",
    "Progress",
    "Put",
    "PutResult",
    "Queue",
    "QuotaExceeded",
    "RWLock",
    "RWLockSide",
    "RateLimiter",
    "Registration",
    "Registry",
    "Rejected",
    "Removed",
    "Replica",
    "ReplicatedMapping",
    "ReplkvError",
    "Role",
    "RoleExists",
    "RoleNotFound",
    "Scan",
    "ScanResult",
    "Semaphore",
    "Settings",
    "SortBy",
    "Status",
    "StorageError",
    "Synced",
    "Term",
    "Timeout",
    "TooLarge",
    "TooManyOps",
    "TooStale",
    "Transaction",
    "Transfer",
    "Txn",
    "TxnResult",
    "Unavailable",
    "Undecodable",
    "User",
    "UserExists",
    "UserNotFound",
    "View",
    "WaitTimeout",
    "Watch",
    "Watched",
    "WrongCluster",
    "connect",
    "exit_on_sigterm",
    "recover_lost_majority",
    "restore",
    "typed",
]

logging.getLogger("replkv").addHandler(logging.NullHandler())
