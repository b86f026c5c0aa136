"""The first entry of a cluster: who founded it.

A cluster is founded once, by the first of its founders by name, when all of them have been reached and none has any state.  The founder
makes the entry durable before it tells anybody, and it names the random incarnation of everybody's directory.  A directory that was
emptied in between is another incarnation: it may begin its log with this entry, too, but has no vote by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv import codec, features
from replkv.config import Settings
from replkv.messages import Configuration, Entry, EntryKind, Founding

if TYPE_CHECKING:
    from collections.abc import Mapping


def founding_entry(
    cluster: bytes, incarnations: Mapping[str, int], addresses: Mapping[str, str], settings: Settings, level: int = features.FIRST
) -> Entry:
    """Build the first entry.

    Args:
        cluster: 16 random bytes.
        incarnations: of every founder, by name.
        addresses: where they are, as far as that is known.
        settings: the cluster's first.
        level: the feature level that all founders support.
    """
    known = {name: url for name, url in sorted(addresses.items()) if url}
    configuration = Configuration(tuple(sorted(incarnations)), members=dict(sorted(incarnations.items())), addresses=known)
    payload = codec.encode_founding(Founding(cluster, configuration, settings.to_wire(), level))
    return codec.make_entry(1, 1, EntryKind.FOUNDING, 0, payload)


def check_founding(entry: Entry) -> None:
    """Check that a cluster can begin with ``entry``.

    Raises:
        DecodeError: it is no founding entry.
        Incompatible: its settings, or its level, are none this version could live by.
    """
    if (entry.index, entry.term, entry.kind) != (1, 1, EntryKind.FOUNDING):
        raise codec.DecodeError(f"entry {entry.index} of kind {entry.kind.name} does not found a cluster")
    founding = codec.decode_founding(entry.payload)
    Settings.from_wire(founding.settings)
    features.check_supported(founding.level)
    founders = founding.configuration
    if founders.voters != tuple(sorted(founders.members)) or founders.outgoing or founders.learners:
        raise codec.DecodeError("a founding entry whose founders do not all vote")
