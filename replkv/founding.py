"""The first entry of a cluster: who founded it.

A cluster is founded once, by the first of its founders by name, when all of them have been reached and none has any state.  The founder
makes the entry durable before it tells anybody, and every other takes it only if the entry names its own incarnation: so two different
first entries can't both find followers, and a directory that was emptied in between can't take part under its old name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv import codec
from replkv.config import Settings
from replkv.messages import Configuration, Entry, EntryKind, Founding

if TYPE_CHECKING:
    from replkv.messages import Identity


def founding_entry(cluster: bytes, incarnations: dict[str, int], settings: Settings) -> Entry:
    """Build the first entry.

    Args:
        cluster: 16 random bytes.
        incarnations: of every founder, by name.
        settings: the cluster's first.
    """
    configuration = Configuration(tuple(sorted(incarnations)), members=dict(sorted(incarnations.items())))
    payload = codec.encode_founding(Founding(cluster, configuration, settings.to_wire()))
    return codec.make_entry(1, 1, EntryKind.FOUNDING, 0, payload)


def is_for(entry: Entry, identity: Identity) -> bool:
    """Tell whether ``entry`` founds a cluster with this very member.

    Raises:
        DecodeError: it is no founding entry.
        Incompatible: its settings are none this version could live by.
    """
    if (entry.index, entry.term, entry.kind) != (1, 1, EntryKind.FOUNDING):
        raise codec.DecodeError(f"entry {entry.index} of kind {entry.kind.name} does not found a cluster")
    founding = codec.decode_founding(entry.payload)
    Settings.from_wire(founding.settings)
    founders = founding.configuration
    return founders.voters == tuple(sorted(founders.members)) and founders.members.get(identity.name) == identity.incarnation
