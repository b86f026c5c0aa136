"""The bugs in the rules of Raft, which ``raft_rules.py`` has: where each was met, and in which small world the search finds it."""

from __future__ import annotations

import raft_rules as bugs
from mutant import mutant

mutant(86, "DaosRaft#1", profile="hand-over and an election")(bugs.a_vote_is_given_to_two_candidates)
mutant(1, "PySyncObj#84, raft-java#57", profile="split votes")(bugs.a_vote_is_forgotten_in_a_crash)
mutant(8, "SandTable: Xraft#1, DaosRaft#1", profile="hand-over and an election", slow=True)(bugs.a_late_vote_of_an_older_term_is_counted)
mutant(130, profile="elections and a put", slow=True)(bugs.a_vote_goes_to_one_whose_log_is_behind)
mutant(87, profile="old entries", slow=True)(bugs.logs_are_compared_by_their_length_alone)
mutant(88, "openraft d000ee20", profile="hand-over and an election", slow=True)(
    bugs.a_hand_over_of_an_older_term_is_carried_out_in_the_present_one
)
mutant(3, "logcabin#44, PySyncObj#169", profile="old entries", slow=True)(bugs.an_entry_of_an_older_term_is_committed_by_counting)
mutant(4, "PySyncObj#166", profile="a read")(bugs.the_commit_index_goes_back_with_a_late_message)
mutant(131, profile="old entries", slow=True)(bugs.what_a_leader_sent_first_is_committed_whatever_lies_there)
mutant(5, "PySyncObj#167, RaftOS#25, etcd-io/raft#149", profile="two puts")(bugs.a_late_answer_takes_the_match_index_back)
mutant(6, "RaftOS#26, hashicorp/raft 0f31a01", profile="two puts", slow=True)(bugs.a_late_append_cuts_off_what_was_acknowledged)
mutant(132, profile="old entries", slow=True)(bugs.an_append_is_taken_without_looking_what_lies_before_it)
mutant(133, profile="elections of two", slow=True)(bugs.acknowledgements_leave_before_the_disk_is_done)
mutant(7, "openraft#1802, hashicorp/raft 163a55f", profile="elections of two")(bugs.half_is_taken_for_a_majority)
mutant(26, "Ongaro 2015, jgroups-raft#38", profile="changes of two leaders", slow=True)(
    bugs.a_leader_changes_the_configuration_before_an_entry_of_its_own_is_committed
)
mutant(80, "openraft before 2025-04", profile="shrinking", slow=True)(bugs.a_configuration_is_changed_before_the_last_change_is_committed)
mutant(120, profile="shrinking", slow=True)(bugs.two_voters_are_changed_at_once)
mutant(32, "openraft a5064712", profile="shrinking")(bugs.a_new_configuration_is_decided_by_the_voters_of_the_old_one)
mutant(27, "canonical/raft#250, openraft#1808", profile="shrinking")(bugs.a_restart_forgets_the_newest_configuration)
mutant(121, profile="joint changes")(bugs.one_half_of_a_joint_configuration_decides)
mutant(89, profile="shrinking", slow=True)(bugs.whoever_elects_itself_leads_before_that_is_durable)
mutant(58, "Jepsen: etcd 0.4.1, dqlite#258, jgroups-raft#208", profile="a read")(bugs.a_leader_reads_without_asking_anybody)
mutant(110, profile="a read")(bugs.a_read_is_confirmed_by_a_round_that_began_before_it)
mutant(59, "etcd#7331, etcd-io/raft 3189a66", profile="a read", slow=True)(bugs.a_leader_reads_before_it_knows_what_is_committed)
mutant(111, profile="a lease of a new leader", slow=True)(bugs.a_lease_begins_before_the_leader_knows_what_is_committed)
mutant(112, profile="a lease of a new leader")(bugs.a_lease_lasts_longer_than_the_promises)
mutant(113, profile="leases and late answers", slow=True)(bugs.a_lease_begins_when_the_answer_arrives)
mutant(61, "openraft#1747, etcd#21375", profile="leases at a hand-over")(bugs.a_lease_goes_on_while_leadership_is_handed_over)
mutant(114, profile="leases and promises", slow=True)(bugs.a_restart_ends_a_promise)
mutant(115, profile="leases and promises", slow=True)(bugs.a_lost_connection_ends_a_promise)
mutant(134, profile="snapshots", slow=True)(bugs.a_snapshot_does_not_say_who_votes)
mutant(35, "openraft 674e78aa, ClickHouse#54572", profile="a snapshot in place of a longer log", slow=True)(
    bugs.an_installed_snapshot_leaves_the_log_that_it_replaces
)
mutant(40, "openraft#1892", profile="snapshots", slow=True)(bugs.a_snapshot_replaces_a_log_that_already_holds_it)
mutant(135, profile="losses", slow=True)(bugs.who_lost_a_part_of_its_log_votes_by_what_is_left)
mutant(136, profile="losses and late votes", slow=True)(bugs.a_lost_vote_is_given_once_more)
mutant(137, profile="losses and late votes", slow=True)(bugs.a_lost_term_is_thought_to_be_the_one_before_it)
mutant(138, profile="losses", slow=True)(bugs.a_doubt_ends_before_all_others_have_answered)
mutant(139, profile="losses", slow=True)(bugs.who_lost_a_part_of_its_log_stands_for_election)
