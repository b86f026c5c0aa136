"""The same random steps on a real etcd and on replkv: equal results, equal revisions, equal errors, equal histories.

What is meant to differ is in docs/ETCD.md, and in test_intended_differences.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve
from etcd_server import Etcd
from etcd_store import EtcdStore
from generated import any_step, changes, histories, plays, watches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from play import Play
from replkv_store import ReplkvStore
from steps import Put, Step, Watch

from replkv import Replica

thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def namespaced(installed: Etcd) -> Iterator[ReplkvStore]:
    with Replica() as replica:
        replica.wait_ready()
        yield ReplkvStore(replica, namespace=b"n\xff", neighbours=[b"n", b"n\xfe", b"o"])


@settings(thorough, max_examples=100)
@given(play=plays(any_step))
def test_every_step_has_the_same_result_the_same_revision_and_the_same_error(
    etcd: EtcdStore, replkv: ReplkvStore, play: list[Step]
) -> None:
    both = Play(etcd, replkv)
    for step in play:
        both.do(step)


@settings(thorough, max_examples=30)
@given(before=plays(histories), opened=st.lists(watches, min_size=1, max_size=8), after=plays(changes))
def test_a_watch_sees_the_same_events_in_the_same_order(
    etcd: EtcdStore, replkv: ReplkvStore, before: list[Step], opened: list[Watch], after: list[Step]
) -> None:
    watch_both(Play(etcd, replkv), before, opened, after)


@settings(thorough, max_examples=20)
@given(before=plays(any_step), opened=st.lists(watches, min_size=1, max_size=3), after=plays(changes))
def test_a_namespace_is_to_its_user_what_a_whole_etcd_is(
    etcd: EtcdStore, namespaced: ReplkvStore, before: list[Step], opened: list[Watch], after: list[Step]
) -> None:
    watch_both(Play(etcd, namespaced), before, opened, after)
    namespaced.require_untouched_neighbours()


def watch_both(both: Play, before: list[Step], opened: list[Watch], after: list[Step]) -> None:
    """Open watches between two parts of a play, and require that both stores' see the same."""
    for step in before:
        both.do(step)
    opened = [possible(watch, both.compacted) for watch in opened]
    views = [(watch, both.replkv.watch(watch), both.etcd.watch(watch)) for watch in opened]
    for step in after:
        both.do(step)
    while both.replkv.revision < max(watch.start_revision or 0 for watch in opened):
        both.do(Put(b"time passes", b""))
    ends = [both.touch(watch) for watch in opened]
    for (watch, ours, theirs), last in zip(views, ends, strict=True):
        both.require_equal_views(watch, ours, theirs, last)


def possible(watch: Watch, compacted: int) -> Watch:
    """Return a watch that both stores take in the same way: replkv wants to know what was replaced, or says that it can't."""
    return evolve(watch, prev_kv=watch.prev_kv and watch.start_revision != compacted)
