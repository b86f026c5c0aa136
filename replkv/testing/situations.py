"""Situations worth reaching, each with what recognises it, by the occasion at which it is looked for.

A name says what was the case.  Each is one in which a bug once hid, here or elsewhere, or could: between two steps that seem to belong
together, at a limit, or where two things meet that hardly ever do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv import progress
from replkv.messages import EXPECTED, EntryKind
from replkv.progress import Pace
from replkv.raft import Role
from replkv.testing.cluster import WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from replkv.testing.occasions import Decided, Sent, Turn, View

    Seen = TypeVar("Seen")
    Situations = Mapping[str, Callable[[Seen], object]]

# -- a member plays another part than before, or knows another leader or configuration ---------------------------------------------

OFFICES: Situations[Turn] = {
    "an election was lost": lambda turn: turn.before.role is Role.CANDIDATE and turn.now.role is Role.FOLLOWER,
    "an election had no winner": lambda turn: turn.before.role is Role.CANDIDATE and turn.now.role is Role.PRE_CANDIDATE,
    "a pre-vote came to nothing": lambda turn: turn.before.role is Role.PRE_CANDIDATE and turn.now.role is Role.FOLLOWER,
    "a pre-candidate heard of a leader": lambda turn: turn.before.role is Role.PRE_CANDIDATE and turn.now.follows,
    "a leader was deposed by a later term": lambda turn: turn.lost_office and turn.now.term > turn.before.term,
    "a leader that nobody answered stepped down": lambda turn: turn.resigned and turn.before.votes,
    "a leader that was left out stepped down": lambda turn: turn.resigned and not turn.before.votes,
    "a leader lost office before its first entry was committed": lambda turn: turn.lost_office and turn.before.is_new,
    "a leader lost office while it sent a snapshot": lambda turn: turn.lost_office and turn.before.sending > 0,
    "a leader lost office with callers' batches under way": lambda turn: turn.lost_office and turn.before.batches > 0,
    "a leader lost office in a joint configuration": lambda turn: turn.lost_office and turn.before.joint,
    "a hand-over was given up": lambda turn: turn.before.heir is not None and turn.now.lead is turn.before.lead and turn.now.heir is None,
    "a member went over from one leader to the next": (
        lambda turn: turn.before.follows and turn.now.follows and turn.now.term > turn.before.term
    ),
    # who decides
    "a member learnt that it is left out": lambda turn: turn.before.belongs and not turn.now.belongs,
    "a member learnt that it is back": lambda turn: turn.now.belongs and not turn.before.belongs,
    "a leader changed the configuration twice in its term": lambda turn: (
        turn.changes_configuration and turn.now.world.changes_in(turn.now.term) > 1
    ),
    "a session ran out with batches under way": (
        lambda turn: turn.before.session > 0 == turn.now.session and turn.before.batches > 0 and not turn.installed
    ),
}

# -- a member looks otherwise in any way -------------------------------------------------------------------------------------------

TURNS: Situations[Turn] = {
    "entries at the end of a log were replaced": lambda turn: turn.forgot,
    "entries that a leader had made were replaced in its log": lambda turn: turn.forgot and turn.before.made_its_end,
    "a configuration was rolled back": lambda turn: turn.forgot and turn.now.configuration != turn.before.configuration,
    "a log was trimmed": lambda turn: turn.now.base > turn.before.base and not turn.installed,
    "many entries were committed at once": lambda turn: turn.now.commit - turn.before.commit >= 5 and not turn.installed,
    # who is who
    "a member was replaced by a new incarnation": lambda turn: any(before for _, before, now in turn.renewed),
    "a member came that was expected": lambda turn: any(not before for _, before, _ in turn.renewed),
    "another replaced a new incarnation": lambda turn: any(before not in turn.founding.values() for _, before, _ in turn.renewed if before),
    "a member got its vote that was no founder": lambda turn: any(
        turn.now.configuration.members[name] != turn.founding.get(name) for name in turn.promoted
    ),
    "a new address was taken over": lambda turn: turn.has_moved,
    "a founder was removed": lambda turn: any(name in turn.founding for name in turn.removed),
    "a member was removed that was no founder": lambda turn: any(name not in turn.founding for name in turn.removed),
    # snapshots
    "a snapshot was taken": lambda turn: turn.now.snapshot > turn.before.snapshot and not turn.installed,
    "a snapshot was begun in a joint configuration": lambda turn: turn.begins_a_snapshot and turn.now.joint,
    "a snapshot was begun while history was being removed": lambda turn: turn.begins_a_snapshot and turn.now.removes,
    "a snapshot was begun by a leader with uncommitted entries": lambda turn: turn.begins_a_snapshot and turn.now.leads and turn.now.hopes,
    "a snapshot that had begun to arrive was dropped": (
        lambda turn: turn.before.receiving and not (turn.now.receiving or turn.now.loading or turn.installed)
    ),
    "a snapshot that was loaded was not needed any more": lambda turn: turn.before.loading and not (turn.now.loading or turn.installed),
    "as many batches as may be were under way": lambda turn: turn.now.batches > turn.before.batches >= 3,
}

INSTALLATIONS: Situations[Turn] = {
    "a snapshot was installed": lambda _: True,
    "a snapshot was installed by a newcomer": lambda turn: turn.before.last == 1 and not turn.before.belongs,
    "a snapshot was installed by a member that had led": lambda turn: turn.before.made_its_end,
    "a snapshot with a joint configuration was installed": lambda turn: turn.now.joint,
    "a snapshot was installed in the middle of an entry": lambda turn: turn.before.applying,
    "a snapshot was installed over uncommitted entries": lambda turn: turn.before.hopes,
    "a snapshot was installed under a watch": lambda turn: turn.now.world.is_watched(turn.now.node),
    "a snapshot was installed with callers' batches under way": lambda turn: turn.before.batches > 0,
    "callers were answered from an installed snapshot": lambda turn: turn.now.session > 0 and turn.now.batches < turn.before.batches,
    "a snapshot was installed that has lost the member's session": lambda turn: turn.before.session > 0 == turn.now.session,
    "a snapshot gave a member a vote": lambda turn: turn.now.votes and not turn.before.votes,
    "a snapshot brought leases": lambda turn: len(turn.now.machine.leases) > 0,
    "a snapshot was compacted beyond what its receiver had": (
        lambda turn: turn.now.machine.store.compacted > turn.before.machine.store.revision
    ),
}

# -- somebody was elected ----------------------------------------------------------------------------------------------------------

ELECTIONS: Situations[View] = {
    "leadership was handed over": lambda now: now.world.heirs.get(now.term - 1) == now.name,
    "two led at once, in different terms": lambda now: any(other.leads for other in now.others),
    "a leader was replaced while it stood still": lambda now: any(other.leads and other.member.paused for other in now.others),
    "a leader was replaced while its disk hung": lambda now: any(other.leads and other.member.hangs for other in now.others),
    "a leader was replaced while it was cut off": lambda now: any(other.leads and other.is_cut_off for other in now.others),
    "a leader was replaced while it was short of time": lambda now: any(other.leads and other.member.work > WORK for other in now.others),
    "a leader was replaced while it handed over to another": lambda now: now.world.heirs.get(now.term - 1, now.name) != now.name,
    "a leader was replaced while it sent a snapshot": lambda now: any(other.leads and other.sending for other in now.others),
    "somebody was elected in a joint configuration": lambda now: now.joint,
    "somebody was elected by an uncommitted configuration": lambda now: now.unsettled,
    "somebody was elected who alone has a vote": lambda now: (
        now.configuration.voters == (now.name,) and len(now.member.cluster.scenario.names) > 1
    ),
    "somebody was elected while another was down": lambda now: not {*now.configuration.names} <= {now.name, *(o.name for o in now.others)},
    "somebody was elected with uncommitted entries": lambda now: now.lead is not None and now.lead.first_index > now.commit + 1 > 1,
    "somebody was elected who had led before": lambda now: any(now.world.led(now.name, term) for term in range(now.term)),
    "somebody was elected who had crashed before": lambda now: now.member.life > 1,
    "somebody was elected in the middle of an entry": lambda now: now.applying,
    "somebody was elected whose log begins with a snapshot": lambda now: 0 < now.snapshot == now.last - 1,
    "a term passed without a leader": lambda now: now.term > 2 and now.term - 1 not in now.world.leaders,
}

# -- a leader looks otherwise than before ------------------------------------------------------------------------------------------

LEADERS: Situations[View] = {
    "a leader's window was full": lambda now: now.heir is None and not now.raft.can_propose,
    "as many appends as may be were under way": lambda now: any(
        len(peer.inflight) >= progress.INFLIGHT for peer in now.raft.peers.values()
    ),
    "a follower was asked anew how far it is": lambda now: any(peer.pace is Pace.PROBE and peer.match for peer in now.raft.peers.values()),
    "a follower needed a snapshot": lambda now: any(peer.pace is Pace.SNAPSHOT for peer in now.raft.peers.values()),
    "a leader's log was trimmed beyond a follower": lambda now: any(0 < peer.match < now.base for peer in now.raft.peers.values()),
    "two snapshots were on their way at once": lambda now: now.sending > 1,
    "a read index was asked for before the term's first commit": lambda now: now.early_reads,
    "a leader led without having a vote": lambda now: not now.votes,
    "a leader waited until its heir has everything": lambda now: now.lead is not None and now.heir is not None and not now.lead.ready_heir,
    "a leader that is to go hands over": lambda now: now.heir is not None and now.name not in now.machine.roster,
    "a leader waits for somebody to come": lambda now: EXPECTED in now.configuration.members.values(),
    "an heir needed a snapshot": lambda now: now.heir is not None and now.raft.peers[now.heir].pace is Pace.SNAPSHOT,
    "a voter was far behind when it got its vote": (
        lambda now: now.unsettled and any(now.configuration.is_voter(name) and not peer.match for name, peer in now.raft.peers.items())
    ),
}

# -- a member's life began ---------------------------------------------------------------------------------------------------------

STARTS: Situations[View] = {
    "a member came back with a snapshot and nothing behind it": lambda now: 0 < now.snapshot == now.last,
    "a member came back with a snapshot and entries behind it": lambda now: 0 < now.snapshot < now.last,
    "a member came back with nothing but the founding entry": lambda now: now.last == 1 and now.member.life > 1,
    "a member came back and knew whom it had voted for": lambda now: now.raft.vote not in (None, now.name),
    "a member came back to a joint configuration": lambda now: now.joint,
    "a member came back as a learner": lambda now: now.name in now.configuration.learners,
    "a member came back that is left out": lambda now: not now.belongs,
    "a member came back with another configuration than is committed": (lambda now: now.world.settled not in (None, now.configuration)),
    "a member came back without entries that were not synced": lambda now: (
        now.previous is not None and now.previous.raft.last_index > now.last
    ),
    "a member came back with entries it had not acknowledged": lambda now: (
        now.previous is not None and now.previous.raft.durable_index < now.last
    ),
    "a newcomer began with the founding entry": lambda now: now.last == 1 and not now.belongs,
    "a newcomer was told of one member only": lambda now: now.last == 1 and not now.belongs and now.member.joins,
    "a member came back at another address": lambda now: now.previous is not None and now.member.address != now.previous.address,
    "a member came back with leases": lambda now: len(now.machine.leases) > 0,
}

# -- a member's life ended without a word ------------------------------------------------------------------------------------------

ENDS: Situations[View] = {
    "a leader crashed": lambda last: last.leads,
    "a leader crashed before its first entry was committed": lambda last: last.is_new,
    "a leader crashed with uncommitted entries": lambda last: last.leads and last.hopes,
    "a leader crashed with an uncommitted configuration": lambda last: last.leads and last.unsettled,
    "a leader crashed in a joint configuration": lambda last: last.leads and last.joint,
    "a leader crashed while it handed over": lambda last: last.heir is not None,
    "an heir crashed": lambda last: any(other.heir == last.name for other in last.others),
    "a candidate crashed": lambda last: last.role is Role.CANDIDATE,
    "a learner crashed": lambda last: last.name in last.configuration.learners,
    "a member crashed while it took a snapshot": lambda last: last.taking,
    "a member crashed while it sent a snapshot": lambda last: last.sending > 0,
    "a member crashed while it received a snapshot": lambda last: last.receiving,
    "a member crashed while it loaded a snapshot": lambda last: last.loading,
    "a member crashed in the middle of an entry": lambda last: last.applying,
    "a member crashed while it removed history": lambda last: last.removes,
    "a member crashed with callers' batches under way": lambda last: last.batches > 0,
    "a member crashed while its disk hung": lambda last: last.member.hangs,
    "a member crashed while it was being closed": lambda last: last.node.closing,
    "a flush was torn": lambda last: 0.0 < last.written < 1.0,
    "a flush that was interrupted is on the disk": lambda last: last.written == 1.0,
    "the last of all members crashed": lambda last: not last.others and len(last.configuration.names) > 1,
}

# -- something was sent, by the number of its kind ---------------------------------------------------------------------------------

VOTE, VOTE_REPLY, APPEND_REPLY, READ_INDEX_REPLY, TIMEOUT_NOW, CHUNK, DIGEST = 16, 17, 19, 21, 22, 33, 35

MESSAGES: dict[int, Situations[Sent]] = {
    VOTE: {
        "a member that is left out asked for a vote": lambda sent: sent.is_from_stranger,
        "an heir asked for votes": lambda sent: sent.message.transfer,
        "votes were asked for in a term that has a leader": lambda sent: not sent.message.pre and sent.is_led,
    },
    VOTE_REPLY: {
        "a vote was refused": lambda sent: not (sent.message.granted or sent.message.pre),
        "a pre-vote was refused": lambda sent: sent.message.pre and not sent.message.granted,
        "a vote was given in a term that has a leader": lambda sent: sent.message.granted and not sent.message.pre and sent.is_led,
    },
    APPEND_REPLY: {
        "an append was refused and the log walked back": lambda sent: sent.message.rejected and sent.message.hint_index > 0,
        "a leader was told that its term is over": lambda sent: sent.message.rejected and sent.message.term > sent.term,
        "a leader heard from a member it had left out": lambda sent: sent.is_from_stranger,
    },
    READ_INDEX_REPLY: {
        "a read was refused by one that did not lead": lambda sent: not sent.message.index,
    },
    TIMEOUT_NOW: {
        "an heir was told to stand again": lambda sent: sent.term > sent.message.term,
    },
    CHUNK: {
        "a snapshot was sent in pieces": lambda sent: sent.message.offset > 0,
        "a snapshot was sent that was not needed": lambda sent: sent.message.meta.index <= sent.commit,
        "a snapshot was sent to a learner": lambda sent: sent.is_to_learner,
        "a snapshot was sent to a member with another configuration": lambda sent: (
            sent.configuration not in (None, sent.message.meta.configuration)
        ),
    },
    DIGEST: {
        "members compared their chains": lambda sent: not sent.message.full,
        "members compared their whole states": lambda sent: sent.message.full,
    },
}

# -- something was committed -------------------------------------------------------------------------------------------------------

COMMITS: Situations[Decided] = {
    "an entry of an earlier term was committed": lambda it: it.is_late,
    "an entry was committed in a joint configuration": lambda it: it.is_joint,
    "an entry was committed that no disk had to spare": lambda it: (
        2 * (len(it.commit.holders) - 1) <= len(it.commit.raft.configuration.names)
    ),
    "an entry was committed while another thought that it leads": (
        lambda it: any(other.leads and other.term < it.commit.raft.term for other in it.others)
    ),
    "an entry was committed while a disk hung": lambda it: any(other.member.hangs for other in it.others),
    "a configuration was committed by another than the one that made it": (
        lambda it: it.is_late and it.commit.entry.kind is EntryKind.CONFIGURATION
    ),
    "a lease expired while leadership was handed over": (
        lambda it: bool(it.commit.expiries) and any(view.heir is not None for view in it.world.views.values())
    ),
    "a lease expired in a term's first entry": lambda it: bool(it.commit.expiries) and it.begins_term,
    "a lease expired in a joint configuration": lambda it: bool(it.commit.expiries) and it.is_joint,
    "several leases expired at once": lambda it: len(it.commit.expiries) > 1,
    "a lease expired whose holder was gone": lambda it: bool(it.commit.expiries) and any(not holding.alive for holding in it.holdings),
    "a lease expired that its holder had given up": (
        lambda it: bool(it.commit.expiries) and any(holding.held.lost for holding in it.holdings)
    ),
}
