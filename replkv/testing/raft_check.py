"""What must always hold in a Raft core, whatever happened to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv.errors import InvariantBroken
from replkv.progress import INFLIGHT
from replkv.raft import Role

if TYPE_CHECKING:
    from replkv.raft import Raft


def check_raft(raft: Raft) -> None:
    """Compare what must always hold.  O(peers).

    Raises:
        InvariantBroken: with the numbers.
    """
    log, name = raft._log, raft.name
    order = [0, log.base_index, raft.handed_out, raft.commit, log.last_index]
    if order != sorted(order) or raft.durable_index > order[-1] or raft.term < log.last_term:
        raise InvariantBroken(f"{name}: base, handed out, commit, last {order[1:]}, durable {raft.durable_index}, term {raft.term}")
    for peer, progress in raft.peers.items():
        if not progress.match < progress.next or progress.match > order[-1] or len(progress.inflight) > INFLIGHT:
            raise InvariantBroken(f"{name}: {peer} has {progress} in a log that ends at {order[-1]}")
    if len({raft._lead is not None, raft.role is Role.LEADER, raft.leader == name}) > 1:
        raise InvariantBroken(f"{name}: a {raft.role.value} whose leader is {raft.leader}")
    if not raft._stirred and _has_effects(raft):
        raise InvariantBroken(f"{name}: there is something to do that would not be done before the next input")


def _has_effects(raft: Raft) -> bool:
    lead, last = raft._lead, raft.last_index
    decided = raft._unsaved <= last or raft.handed_out < raft.commit or raft._saved != raft.hard_state
    if decided or lead is None:
        return decided or not raft._out.is_empty
    reads = bool(lead._reads) and raft.commit >= lead.first_index
    return lead._broadcast_due or lead.settling or reads or any(peer.has_room(last) for peer in lead.peers.values())
