"""A play: the same steps on both stores, with equal answers."""

from __future__ import annotations

from etcd_store import EtcdStore, EtcdWatch
from replkv_store import ReplkvStore, ReplkvWatch
from rules import etcd_finds_duplicate, may_both_be
from steps import Compact, Delete, Put, Refused, Step, Txn, Watch, Where


class Play:
    """Both stores, cleared, and what is done by both.

    Both count revisions from where they were cleared and compacted, so neither tells an earlier play from no play at all.
    """

    def __init__(self, etcd: EtcdStore, replkv: ReplkvStore) -> None:
        self.etcd = etcd
        self.replkv = replkv
        self.compacted = 0
        etcd.clear()
        replkv.clear()

    def do(self, step: Step) -> object:
        """Do a step on both, require equal answers and equal revisions, and return the answer."""
        ours = self.replkv.do(step)
        if isinstance(step, Txn) and ours == Refused("DuplicateKey") and not etcd_finds_duplicate(step):
            return ours  # and etcd would do it
        theirs = self.etcd.do(step)
        assert ours == theirs or may_both_be(step, ours, theirs), step
        assert self.replkv.revision == self.etcd.revision, step
        if isinstance(step, Compact) and ours is None:
            self.compacted = step.revision
        return ours

    def touch(self, watch: Watch) -> int:
        """Put and delete a key that a watch watches; return the revision of the one it sees last."""
        where = watch.where
        key = where.key or where.prefix or where.start or b"touched"
        self.do(Put(key, b""))
        self.do(Delete(Where(key=key)))
        return self.replkv.revision - ("delete" not in watch.kinds)

    def require_equal_views(self, watch: Watch, ours: ReplkvWatch, theirs: EtcdWatch, last: int) -> None:
        """Require that both stores' watches saw the same up to a revision."""
        seen, expected = ours.collect(last), theirs.collect(last)
        if isinstance(expected, Refused) and watch.prev_kv:
            expected = Refused("Compacted", self.compacted + 1)  # from where on replkv can tell what was replaced
        if watch.start_revision == self.compacted and self.etcd.loses_deletions and isinstance(seen, list):
            seen = [event for event in seen if event.kind == "put" or event.kv.mod_revision > self.compacted]
        assert seen == expected, watch
