"""replkv: strongly consistent replicated state inside your process.

``Replica`` embeds one member of a cluster; ``AsyncReplica`` is the same for asyncio.  docs/ARCHITECTURE.md is the way into the source.
"""

import logging

from replkv.aio import AsyncReplica
from replkv.awaiting import AsyncNamespace
from replkv.blocking import Namespace
from replkv.config import Config, Settings
from replkv.errors import (
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
    NoLeader,
    NotACounter,
    OutcomeUnknown,
    Overloaded,
    QuotaExceeded,
    Rejected,
    ReplkvError,
    StorageError,
    TooLarge,
    TooManyOps,
    TooStale,
    Unavailable,
    WaitTimeout,
    WrongCluster,
)
from replkv.leasing import AsyncLease, AsyncLost, Lease, Lost
from replkv.mapping import AsyncMapping, ReplicatedMapping
from replkv.ops import KEEP, Add, Compare, Delete, Get, Keep, Key, LeaseLike, Operation, Put, Scan, SortBy, Txn
from replkv.replica import Replica
from replkv.status import Member, Status
from replkv.surface import Consistency, Timeout
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
from replkv.watching import AsyncWatch, Watch, Watched

__version__ = "0.1.0"

__all__ = [
    "KEEP",
    "Add",
    "AddResult",
    "AsyncLease",
    "AsyncLost",
    "AsyncMapping",
    "AsyncNamespace",
    "AsyncReplica",
    "AsyncView",
    "AsyncWatch",
    "Change",
    "Changes",
    "Closed",
    "Codec",
    "CodecName",
    "Compacted",
    "Compare",
    "Config",
    "Conflict",
    "Consistency",
    "Corrupt",
    "Data",
    "Delete",
    "DeleteResult",
    "DirectoryInUse",
    "DiskFull",
    "DuplicateKey",
    "Event",
    "EventKind",
    "ForkedProcess",
    "FutureRevision",
    "Get",
    "Incompatible",
    "InvariantBroken",
    "Keep",
    "Key",
    "KeyNotFound",
    "KeyValue",
    "Lease",
    "LeaseExists",
    "LeaseInfo",
    "LeaseLike",
    "LeaseNotFound",
    "Lost",
    "Member",
    "Namespace",
    "NoLeader",
    "NotACounter",
    "Operation",
    "OutcomeUnknown",
    "Overloaded",
    "Progress",
    "Put",
    "PutResult",
    "QuotaExceeded",
    "Rejected",
    "Replica",
    "ReplicatedMapping",
    "ReplkvError",
    "Scan",
    "ScanResult",
    "Settings",
    "SortBy",
    "Status",
    "StorageError",
    "Synced",
    "Timeout",
    "TooLarge",
    "TooManyOps",
    "TooStale",
    "Txn",
    "TxnResult",
    "Unavailable",
    "Undecodable",
    "View",
    "WaitTimeout",
    "Watch",
    "Watched",
    "WrongCluster",
    "typed",
]

logging.getLogger("replkv").addHandler(logging.NullHandler())
