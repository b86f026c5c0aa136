"""Random steps: few keys, few values, few leases, so that they meet often."""

from __future__ import annotations

from itertools import chain

from attrs import evolve
from hypothesis import strategies as st
from steps import (
    Compact,
    Compare,
    Consistency,
    Delete,
    Get,
    Grant,
    If,
    Leases,
    Operation,
    Put,
    Renew,
    Revoke,
    Scan,
    Step,
    TimeToLive,
    Txn,
    Watch,
    Where,
)

# At most 6: etcd sorts more than that by a method that leaves equal ones in any order.
KEYS = [b"a", b"a\x00", b"b", b"b\xff", b"\xff\xff", "ä".encode()]
BOUNDS = [*KEYS, b"ab", b"c", b"\xff"]
PREFIXES = [b"a", b"b", b"b\xff", b"\xff", "ä".encode()[:1], b"nothing"]
VALUES = [b"", b"1", b"2", b"\x00\xff"]
LEASES = [1, 77, (1 << 63) - 1]

keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES)
leases = st.sampled_from(LEASES)
ttls = st.sampled_from([86_400, 3600])
REVISIONS = range(-2, 17)
revisions = st.sampled_from(REVISIONS)
often_none = st.sampled_from([*[None] * 40, *REVISIONS])
mostly_none = st.sampled_from([*[None] * 200, *REVISIONS])

ALL = Where()
one_key = keys.map(lambda key: Where(key=key))
some_keys = st.one_of(
    st.sampled_from(PREFIXES).map(lambda prefix: Where(prefix=prefix)),
    st.sampled_from(BOUNDS).map(lambda start: Where(start=start)),
    st.tuples(st.sampled_from(BOUNDS), st.sampled_from(BOUNDS)).map(lambda ends: Where(start=min(ends), end=max(ends))),
)
nowhere = st.tuples(st.sampled_from(BOUNDS), st.sampled_from(BOUNDS)).map(lambda ends: Where(start=max(ends), end=min(ends)))
where = one_key | some_keys | nowhere | st.just(ALL)
wide = st.booleans().flatmap(lambda whole: st.just(ALL) if whole else where)

# -- changes and reads --

plain_puts = st.builds(Put, keys, values, prev_kv=st.booleans())
puts = st.builds(Put, keys, st.sampled_from([*VALUES, *VALUES, None]), st.sampled_from([0, *LEASES, *LEASES, None]), st.booleans())
delete_one = st.builds(Delete, one_key, st.booleans())
deletes = st.builds(Delete, where, st.booleans())
gets = st.builds(Get, keys, often_none)
scans = st.builds(
    Scan,
    wide,
    limit=st.sampled_from([0, 0, 1, 2, 3]),
    revision=mostly_none,
    sort_by=st.sampled_from(["key", "key", "version", "create", "mod", "value"]),
    descending=st.booleans(),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, False, False, True]),
    min_mod_revision=mostly_none,
    max_mod_revision=mostly_none,
    min_create_revision=mostly_none,
    max_create_revision=mostly_none,
)
consistencies: st.SearchStrategy[Consistency] = st.sampled_from(["linearizable", "lease", "local"])  # a transaction's are its own
lone_reads = st.tuples(gets | scans | scans, consistencies).map(lambda read: evolve(read[0], consistency=read[1]))
conditional = st.builds(If, often_none, puts | delete_one)
relations = st.sampled_from(["==", "!=", ">", "<"])
compares = st.one_of(
    st.builds(Compare, where, st.just("version"), relations, st.integers(0, 3)),
    st.builds(Compare, where, st.sampled_from(["create_revision", "mod_revision"]), relations, often_none),
    st.builds(Compare, where, st.just("value"), relations, values),
    st.builds(Compare, where, st.just("lease"), relations, leases | st.just(0)),
)


def transactions(inner: st.SearchStrategy[Operation]) -> st.SearchStrategy[Operation]:
    """Return transactions of these operations."""

    def some(most: int) -> st.SearchStrategy[tuple[Operation, ...]]:
        return st.lists(inner, max_size=most).map(tuple)

    return st.builds(Txn, st.lists(compares, max_size=2).map(tuple), some(3), some(3))


few = st.one_of(plain_puts, puts, delete_one, gets, scans)  # many would write most keys twice, and be refused
many = st.one_of(plain_puts, puts, delete_one, deletes, gets, scans)
nested = transactions(many) | transactions(few | transactions(few | transactions(few)))

# -- history and leases --

compactions = st.builds(Compact, revisions)
lease_steps = st.one_of(
    st.builds(Grant, leases, ttls),
    *(st.builds(kind, leases) for kind in (Renew, Revoke, TimeToLive, TimeToLive)),
    st.just(Leases()),
)


def weighed(*shares: tuple[int, st.SearchStrategy[Step]]) -> st.SearchStrategy[Step]:
    """Return a mixture of strategies, each with its share."""
    return st.sampled_from([strategy for share, strategy in shares for _ in range(share)]).flatmap(lambda strategy: strategy)


def plays(step: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """Return lists of steps; most begin with some leases and some keys.  A list of lists is longer than a list, and shrinks as well."""
    return st.tuples(some_leases, some_pairs, st.lists(st.lists(step))).map(lambda play: [*play[0], *play[1], *chain(*play[2])])


some_leases = st.lists(st.builds(Grant, leases, ttls), max_size=3, unique_by=lambda grant: grant.lease)
every_key = st.permutations(KEYS).map(lambda order: [Put(key, VALUES[at % len(VALUES)]) for at, key in enumerate(order)])
some_pairs = st.lists(puts, max_size=6) | every_key
changes = weighed((4, plain_puts), (3, puts), (3, deletes), (4, nested), (4, lease_steps))
histories = weighed((4, plain_puts), (3, puts), (3, deletes), (4, nested), (4, lease_steps), (1, compactions))
any_step = weighed(
    (4, plain_puts), (3, puts), (1, deletes), (5, nested), (4, lease_steps), (1, compactions), (6, lone_reads), (2, conditional)
)

# -- watches --

watches = st.builds(
    Watch,
    one_key | some_keys.filter(lambda where: where.start is None or where.end is None or where.start < where.end) | st.just(ALL),
    often_none,
    st.booleans(),
    st.sampled_from([("put", "delete"), ("put",), ("delete",)]),
)
