"""The rights matrix: every call, in every nested form, by everybody who is at an edge of what it needs.

What each needs stands in ``rights.py`` and below, written by hand.  Every call, command, plan and letter that there is must have its row
here: one that is new has none, and fails.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import attrs
import pytest
from rights import AUTHS, ROWS, SECRET, WORLD, Form, Level, Log, Need, Needs, Principal, Row, auth, facts, forms, principals, users_of

from replkv import auth_ops, codec, errors, features, member_ops, ops, wire
from replkv.auth import OF_LEASE
from replkv.machine import Machine
from replkv.refusals import STATUS, error_of
from replkv.wire import READ, Raw

DENIED = STATUS[errors.PermissionDenied]
UNPROVED = STATUS[errors.AuthenticationFailed]

# -- the machine -------------------------------------------------------------------------------------------------------------------


class Stage:
    """The world, and a user for each principal of a form."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.log = WORLD.copy()
        self.users = [(f"user{number}", principal) for number, principal in enumerate(principals(form.needs))]
        self.log.must(*users_of(self.users))
        self.stamp = self.log.machine.auth.revision
        self.dump = list(self.log.machine.dump())

    def elsewhere(self) -> Log:
        return Log(Machine.load(self.dump))

    def as_member(self, packed: Raw) -> tuple[Raw, Any]:
        """Return the answer to who holds the member itself, and what becomes of the state."""
        log = self.elsewhere()
        (answer,) = log.do(packed)
        return answer, facts(log.machine, owners=False)


def judged(row: Row, principal: Principal, needs: Needs) -> bool:
    return principal.grants is None or (not row.root and principal.may(needs))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_an_operation_in_whatever_form_is_for_those_who_have_all_rights_that_it_needs(row: Row) -> None:
    for form in forms(row):
        wire.check_operation(form.packed)
        stage = Stage(form)
        allowed = [(user, principal) for user, principal in stage.users if judged(row, principal, form.needs)]
        require_denied(stage, row, [pair for pair in stage.users if pair not in allowed])
        assert {"root", *([] if row.root else ["everything", "exactly"])} <= {principal.name for _, principal in allowed}
        require_allowed(stage, allowed)


def require_denied(stage: Stage, row: Row, users: list[tuple[str, Principal]]) -> None:
    """Require that each of these gets a refusal that says what was missing and nothing else, and that nothing changes."""
    before = facts(stage.log.machine)
    for user, principal in users:
        what = f"{stage.form.name} by one who has {principal.name}"
        for answer in answers_both_ways(stage.log, stage.form.packed, user, stage.stamp):
            assert answer[0] == DENIED, f"{what}: {answer}"
            require_telling(answer, row, stage.form, user, principal)
        assert facts(stage.log.machine) == before, what


def answers_both_ways(log: Log, packed: Raw, user: str, stamp: int) -> list[Raw]:
    """Return the answers to a client's batch, and to a command on behalf of a user in a member's process."""
    (by_client,), (in_process,) = log.do(packed, guest=(user, stamp)), log.do((wire.AS, user, stamp, packed))
    return [by_client, in_process]


def require_telling(answer: Raw, row: Row, form: Form, user: str, principal: Principal) -> None:
    _, (who, mode, start, end) = answer
    assert who == user
    text = str(error_of(*answer))
    assert user in text
    if mode in (READ, wire.WRITE):
        assert repr(start) in text
        assert ("read" if mode == READ else "write") in text
        if not row.root:
            assert (mode, start, end) in form.needs
            assert not principal.may([Need(mode, start, end)])
    elif mode == wire.WRITE | OF_LEASE:  # which key that is, is not told
        assert (start, end) == (b"", None)
        assert row.root or not principal.may([need for need in form.needs if need.mode == wire.WRITE])
    else:
        assert row.root
        assert "root" in text
    assert SECRET not in codec.pack(answer)


def require_allowed(stage: Stage, users: list[tuple[str, Principal]]) -> None:
    """Require that each of these gets what the member itself gets."""
    expected = stage.as_member(stage.form.packed)
    log = stage.elsewhere()
    untouched = facts(log.machine)
    for user, principal in users:
        for way in range(2):
            if facts(log.machine) != untouched:
                log = stage.elsewhere()
            packed, guest = ((stage.form.packed, (user, stage.stamp)), ((wire.AS, user, stage.stamp, stage.form.packed), None))[way]
            (answer,) = log.do(packed, guest=guest)
            assert (answer, facts(log.machine, owners=False)) == expected, f"{stage.form.name} by one who has {principal.name}"


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_while_auth_is_not_enabled_everybody_may_do_everything(row: Row) -> None:
    stage = Stage(Form("plain", row.packed, (*row.needs, *row.whole)))
    stage.log.must(auth(wire.DISABLE))
    stage.dump = list(stage.log.machine.dump())
    require_allowed_to(stage, [("", 0), ("nobody", 0), ("user2", stage.stamp)])


def require_allowed_to(stage: Stage, guests: list[tuple[str, int]]) -> None:
    expected = stage.as_member(stage.form.packed)
    for guest in guests:
        log = stage.elsewhere()
        (answer,) = log.do(stage.form.packed, guest=guest)
        assert (answer, facts(log.machine, owners=False)) == expected


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_who_has_not_proved_who_it_is_may_do_nothing(row: Row) -> None:
    """Not even what every user may, and what changes nothing."""
    stage = Stage(Form("plain", row.packed, (*row.needs, *row.whole)))
    log, exactly = stage.log, next(user for user, principal in stage.users if principal.name == "exactly")
    root = next(user for user, principal in stage.users if principal.name == "root")
    log.must(auth(wire.CHANGE_PASSWORD, exactly, b"hash"), auth(wire.DELETE_USER, root))
    before = facts(log.machine)
    for user, stamp in [("", 0), ("", 1 << 40), ("nobody", stage.stamp), (exactly, stage.stamp), (root, 1 << 40), ("root", 0)]:
        answers = list(log.do(stage.form.packed, guest=(user, stamp)))
        answers += log.do((wire.AS, user, stamp, stage.form.packed)) if user else []
        for answer in answers:
            assert answer == (UNPROVED, (user,))
            assert facts(log.machine) == before


TAKEN: dict[str, list[tuple[Any, ...]]] = {
    "the role is deleted": [(wire.DELETE_ROLE, "user4/0")],
    "the role is revoked": [(wire.REVOKE_ROLE, "user4", "user4/0")],
    "the user is deleted and made anew": [(wire.DELETE_USER, "user4"), (wire.ADD_USER, "user4", b"")],
}


@pytest.mark.parametrize("how", TAKEN)
@pytest.mark.parametrize("row", [row for row in ROWS if row.needs and not row.root], ids=str)
def test_what_was_taken_away_before_it_in_the_log_counts_for_whoever_asked(row: Row, how: str) -> None:
    stage = Stage(Form("plain", row.packed, (*row.needs, *row.whole)))
    assert stage.users[4][1].name == "exactly"
    before = facts(stage.log.machine)
    taken = [auth(*change) for change in TAKEN[how]]
    given_back = [*(auth(wire.GRANT_ROLE, "user4", "user4/0") for _ in range("deleted" not in how))]
    log = stage.log
    session = log.batch(0, 1, (), ("user4", stage.stamp)).opened
    log.must(*taken)
    outcome = log.batch(session, 1, [row.packed, row.packed], ("user4", stage.stamp))
    if "user is deleted" in how:
        assert outcome.expired, "and its sessions with it"
        outcome = outcome._replace(answers=log.do(row.packed, guest=("user4", stage.stamp)))
    assert outcome.answers is not None
    assert {answer[0] for answer in outcome.answers} <= {DENIED, UNPROVED}
    assert facts(log.machine)[:-4] != before[:-4]  # users and roles
    assert facts(log.machine)[-4:] == before[-4:]  # keys and history
    log.must(*given_back)
    if given_back:
        (answer,) = log.do(row.packed, guest=("user4", stage.stamp))
        assert answer[0] not in {DENIED, UNPROVED}


# -- every command and every operation has its row ---------------------------------------------------------------------------------


def test_every_kind_of_command_has_a_row() -> None:
    kinds = {kind for row in ROWS for kind in wire.kinds(row.packed)}
    assert kinds | {wire.AS} == set(features.COMMANDS)  # all rows are tried within AS
    plain = {row.packed[0] for row in ROWS}
    assert plain | {wire.AS} == set(features.COMMANDS)


def test_every_change_of_users_roles_and_permissions_has_a_row() -> None:
    numbers = {name: value for name, value in vars(wire).items() if name in vars(wire) and isinstance(value, int)}
    whats = {row.packed[1] for row in AUTHS}
    assert whats == set(range(wire.ENABLE, max(whats) + 1))
    assert whats == set(wire._AUTH), "see wire.py"  # what there is
    assert numbers["ADD_TOKEN"] in whats


def operation_classes(*modules: ModuleType) -> set[type]:
    return {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and {"to_wire", "result"} <= set(dir(kind))
    }


def test_every_class_of_operations_has_a_row() -> None:
    classes = operation_classes(ops, member_ops, auth_ops) - {ops.Packable}
    assert {type(row.operation) for row in ROWS} - {Level} == classes


def test_every_field_of_an_operation_was_thought_of() -> None:
    """A new option may need another right."""
    fields = {kind.__name__: {field.name for field in attrs.fields(kind)} for kind in map(type, (row.operation for row in ROWS))}
    assert fields == {
        "Put": {"key", "value", "lease", "ttl", "prev_kv", "if_mod_revision", "guard"},
        "Delete": {"span", "prev_kv", "if_mod_revision", "guard"},
        "Add": {"key", "delta"},
        "Get": {"key", "revision"},
        "Scan": {"span", "limit", "revision", "keys_only", "count_only", "sort_by", "descending", "bounds"},
        "Txn": {"compare", "then", "otherwise"},
        "Compact": {"revision"},
        "Grant": {"lease", "ttl", "keeper"},
        "Renew": {"lease", "keeper"},
        "KeepAlive": {"keeper"},
        "Revoke": {"lease", "keeper"},
        "ChangeMembers": {"add", "remove", "learners", "promote"},
        "ChangeAuth": {"what", "arguments"},
        "Level": set(),
    }


def test_every_target_of_a_compare_has_a_row() -> None:
    targets = {compare[2] for row in ROWS if row.packed[0] == wire.TXN for compare in row.packed[1]}
    assert targets == {wire.VERSION, wire.CREATE, wire.MOD, wire.VALUE, wire.LEASE, wire.FENCE}


def test_what_can_be_in_a_branch_is_tried_in_branches() -> None:
    outermost = {row.packed[0] for row in ROWS if not row.prefixable and all(need.start[:1] != b"\x00" for need in row.needs)}
    nested = {row.packed[0] for row in ROWS if row.prefixable}
    assert nested == {wire.TXN, *wire._PLAIN}  # what there is
    assert {kind for kind in outermost if kind not in nested} == set(wire._OUTERMOST) - {wire.AS}  # as well
