"""replkv: strongly consistent replicated state inside your process.

``Replica`` embeds one member of a cluster; ``AsyncReplica`` is the same for asyncio.  docs/ARCHITECTURE.md is the way into the source.
"""

import logging

from replkv.aio import AsyncReplica
from replkv.config import Config, Settings
from replkv.errors import (
    Closed,
    Compacted,
    Corrupt,
    DirectoryInUse,
    DiskFull,
    DuplicateKey,
    ForkedProcess,
    FutureRevision,
    Incompatible,
    InvariantBroken,
    NoLeader,
    NotACounter,
    OutcomeUnknown,
    Rejected,
    ReplkvError,
    StorageError,
    TooLarge,
    TooManyOps,
    Unavailable,
    WaitTimeout,
    WrongCluster,
)
from replkv.ops import (
    Add,
    AddResult,
    Compare,
    Data,
    Delete,
    DeleteResult,
    Get,
    Key,
    KeyValue,
    Operation,
    Put,
    PutResult,
    Scan,
    ScanResult,
    Txn,
    TxnResult,
)
from replkv.replica import Replica
from replkv.status import Member, Status
from replkv.surface import Consistency, Timeout

__version__ = "0.1.0"

__all__ = [
    "Add",
    "AddResult",
    "AsyncReplica",
    "Closed",
    "Compacted",
    "Compare",
    "Config",
    "Consistency",
    "Corrupt",
    "Data",
    "Delete",
    "DeleteResult",
    "DirectoryInUse",
    "DiskFull",
    "DuplicateKey",
    "ForkedProcess",
    "FutureRevision",
    "Get",
    "Incompatible",
    "InvariantBroken",
    "Key",
    "KeyValue",
    "Member",
    "NoLeader",
    "NotACounter",
    "Operation",
    "OutcomeUnknown",
    "Put",
    "PutResult",
    "Rejected",
    "Replica",
    "ReplkvError",
    "Scan",
    "ScanResult",
    "Settings",
    "Status",
    "StorageError",
    "Timeout",
    "TooLarge",
    "TooManyOps",
    "Txn",
    "TxnResult",
    "Unavailable",
    "WaitTimeout",
    "WrongCluster",
]

logging.getLogger("replkv").addHandler(logging.NullHandler())
