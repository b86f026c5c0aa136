"""Users, roles and permissions on both stores, and steps that are done by one of the users."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import steps
from attrs import frozen
from etcd_server import EtcdRefusal, EtcdServer, Json, to_text
from etcd_store import EtcdStore, key_range, refused
from replkv_store import ReplkvStore, span
from rules import may_both_be
from steps import Refused, Step, Where

from replkv import Rejected, Replica
from replkv.acting import ActingReplica

Mode: TypeAlias = Literal["read", "write", "readwrite"]

DENIED = Refused("PermissionDenied")
PASSWORD = "password"
ROLES = ("one", "two")
USER = "somebody"

_KINDS = {
    "etcdserver: user name not found": "UserNotFound",
    "etcdserver: user name already exists": "UserExists",
    "etcdserver: role name not found": "RoleNotFound",
    "etcdserver: role name already exists": "RoleExists",
    "etcdserver: role is not granted to the user": "AuthRefused",
    "etcdserver: permission is not granted to the role": "AuthRefused",
    "etcdserver: invalid auth management": "AuthRefused",
    "etcdserver: root user does not exist": "AuthRefused",
    "etcdserver: root user does not have root role": "AuthRefused",
    "etcdserver: authentication failed, invalid user ID or password": "AuthenticationFailed",
}


@frozen
class Grant:
    """Allow something to a role."""

    role: str
    mode: Mode
    where: Where


@frozen
class Take:
    """Allow it no more."""

    role: str
    where: Where


@frozen
class Hold:
    """Give a role to the user, or take it."""

    role: str
    held: bool


@frozen
class Forget:
    """Delete a role, and make it anew, without permissions."""

    role: str


@frozen
class Ask:
    """Ask about a user or a role, all users or all roles; by name, "" for all."""

    what: Literal["user", "role"]
    name: str


Change: TypeAlias = Grant | Take | Hold | Forget


class EtcdAuth:
    """etcd's users and roles.

    Args:
        server: with auth enabled.
        root: proves that root asks.
    """

    def __init__(self, server: EtcdServer, root: str) -> None:
        self.server = server
        self.root = root

    def log_in(self, user: str, password: str = PASSWORD) -> str:
        token: str = self.server.call("/v3/auth/authenticate", {"name": user, "password": password})["token"]
        return token

    def call(self, path: str, request: Json, token: str | None = None) -> Json:
        """Send a request on behalf of root, or of who has another token."""
        self.server.token = self.root if token is None else token
        return self.server.call(f"/v3/auth/{path}", request)

    def change(self, change: Change) -> Refused | None:
        """Make a change; tell how it was refused."""
        try:
            match change:
                case Grant(role, mode, where):
                    self.call("role/grant", {"name": role, "perm": {"permType": mode.upper(), **_range(where)}})
                case Take(role, where):
                    self.call("role/revoke", {"role": role, **_range(where)})
                case Hold(role, True):
                    self.call("user/grant", {"user": USER, "role": role})
                case Hold(role, False):
                    self.call("user/revoke", {"name": USER, "role": role})
                case Forget(role):
                    self.call("role/delete", {"role": role})
                    self.call("role/add", {"name": role})
        except EtcdRefusal as refusal:
            return refused_change(refusal)
        return None

    def overlooks(self, grant: Grant) -> bool:
        """Tell whether a role has the permission that a grant changes, and etcd does not find it, so that the old one stays beside the new.

        It looks at the first of those that begin with the same key (``RoleGrantPermission`` in its ``auth/store.go``).
        """
        try:
            held = self.call("role/get", {"role": grant.role}).get("perm", [])
        except EtcdRefusal:
            return False
        asked = _range(grant.where)
        ends = [permission.get("range_end", "") for permission in held if permission["key"] == asked["key"]]
        return asked["range_end"] in ends and asked["range_end"] != ends[0]

    def ask(self, ask: Ask, token: str) -> Any:
        """Ask on behalf of who has a token; return the names that are told."""
        try:
            match ask:
                case Ask("user", ""):
                    return set(self.call("user/list", {}, token).get("users", []))
                case Ask("user", name):
                    return set(self.call("user/get", {"name": name}, token).get("roles", []))
                case Ask("role", ""):
                    return set(self.call("role/list", {}, token).get("roles", []))
                case Ask("role", name):
                    self.call("role/get", {"role": name}, token)
        except EtcdRefusal as refusal:
            return refused_change(refusal)
        return None


def refused_change(refusal: EtcdRefusal) -> Refused:
    """Return which error of replkv a refusal of etcd's is like."""
    kind = _KINDS.get(str(refusal))
    return refused(refusal) if kind is None else Refused(kind)


def _range(where: Where) -> Json:
    return {"range_end": to_text(b""), **key_range(where)}


class ReplkvAuth:
    """replkv's users and roles."""

    def __init__(self, replica: Replica) -> None:
        self.auth = replica.auth

    def change(self, change: Change) -> Refused | None:
        """Make a change; tell how it was refused."""
        try:
            match change:
                case Grant(role, mode, where):
                    self.auth.grant_permission(role, mode, **(span(where) or {"prefix": ""}))
                case Take(role, where):
                    self.auth.revoke_permission(role, **(span(where) or {"prefix": ""}))
                case Hold(role, True):
                    self.auth.grant_role(USER, role)
                case Hold(role, False):
                    self.auth.revoke_role(USER, role)
                case Forget(role):
                    self.auth.delete_role(role)
                    self.auth.add_role(role)
        except Rejected as error:
            return Refused(type(error).__name__)
        return None

    @staticmethod
    def ask(ask: Ask, surface: Replica | ActingReplica) -> Any:
        """Ask; return the names that are told."""
        try:
            match ask:
                case Ask("user", ""):
                    return set(surface.auth.users())
                case Ask("user", name):
                    return set(surface.auth.user(name).roles)
                case Ask("role", ""):
                    return set(surface.auth.roles())
                case Ask("role", name):
                    surface.auth.role(name)
        except Rejected as error:
            return Refused(type(error).__name__)
        return None


class AuthPlay:
    """Both stores with auth enabled, cleared, with a user who has no role yet, and two roles that allow nothing."""

    def __init__(self, etcd: EtcdAuth, replica: Replica) -> None:
        self.etcd = etcd
        self.replica = replica
        self.etcd_store = EtcdStore(etcd.server)
        self.replkv_store = ReplkvStore(replica)
        self.ours = ReplkvAuth(replica)
        etcd.server.token = etcd.root
        self.etcd_store.clear()
        self.replkv_store.clear()
        self._begin_anew()
        self._theirs = etcd.log_in(USER)
        self.user = replica.as_user(USER, PASSWORD)
        self._acting = ReplkvStore(cast("Replica", self.user))  # which has all the calls that a store makes
        self._acting.base = self.replkv_store.base

    def _begin_anew(self) -> None:
        etcd, auth = self.etcd, self.replica.auth
        for user in set(etcd.call("user/list", {}).get("users", [])) - {"root"}:
            etcd.call("user/delete", {"name": user})
        for role in set(etcd.call("role/list", {}).get("roles", [])) - {"root"}:
            etcd.call("role/delete", {"role": role})
        for user in set(auth.users()) - {"root"}:
            auth.delete_user(user)
        for role in set(auth.roles()) - {"root"}:
            auth.delete_role(role)
        etcd.call("user/add", {"name": USER, "password": PASSWORD})
        auth.add_user(USER, PASSWORD)
        for role in ROLES:
            etcd.call("role/add", {"name": role})
            auth.add_role(role)

    def change(self, change: Change) -> Refused | None:
        """Make a change as root, and require that both refuse it alike."""
        ours, theirs = self.ours.change(change), self.etcd.change(change)
        assert ours == theirs, change
        if isinstance(change, (Forget, Hold)):  # etcd ends its tokens with some of these
            self._theirs = self.etcd.log_in(USER)
        return ours

    def as_root(self, step: Step) -> Any:
        """Do a step as root, and require equal answers."""
        self.etcd.server.token = self.etcd.root
        return self._equal(step, self.replkv_store.do(step), self.etcd_store.do(step))

    def as_user(self, step: Step) -> Any:
        """Do a step as the user, and require equal answers, refusals above all."""
        ours, theirs = self.both_as_user(step)
        return self._equal(step, ours, theirs)

    def both_as_user(self, step: Step) -> tuple[Any, Any]:
        """Do a step as the user; return replkv's answer and etcd's."""
        self.etcd.server.token = self._theirs
        return self._acting.do(step), self.etcd_store.do(step)

    def is_judged_by_owner(self, step: Step) -> bool:
        """Tell whether a step has to do with a lease without keys that is not the user's: here it is its owner's, in etcd anybody's."""
        inner = step.then if isinstance(step, steps.If) else step
        lease = inner.lease if isinstance(inner, (steps.Put, steps.Revoke)) else None
        leases = self.replica._running().machine.leases  # between two steps of this play nothing happens
        return lease is not None and lease in leases and not leases[lease].keys and leases[lease].owner != USER

    def ask(self, ask: Ask) -> Any:
        """Ask as the user, and require equal answers."""
        ours, theirs = ReplkvAuth.ask(ask, self.user), self.etcd.ask(ask, self._theirs)
        if ask == Ask("role", "") and isinstance(ours, set):
            ours.discard("root")  # which etcd makes, and lists, when somebody does
        assert ours == theirs, ask
        return ours

    def _equal(self, step: Step, ours: Any, theirs: Any) -> Any:
        assert (ours == DENIED) == (theirs == DENIED), (step, ours, theirs)
        assert ours == theirs or may_both_be(step, ours, theirs), step
        assert self.replkv_store.revision == self.etcd_store.revision, step
        return ours


def is_plain(step: steps.Operation, *, inner: bool = False) -> bool:
    """Tell whether both judge a step alike: etcd 3.5 does not check what is nested in transactions (CVE-2026-33343, -44283)."""
    match step:
        case steps.Txn(_, then, otherwise):
            return not inner and all(is_plain(operation, inner=True) for operation in (*then, *otherwise))
        case steps.Put(_, _, lease, prev_kv):
            return not (inner and (lease or prev_kv))
        case steps.Scan(where) | steps.Delete(where):
            return has_keys(where)
    return True


def has_keys(where: Where) -> bool:
    """Tell whether a span has keys, so that something is asked for or allowed; and is not a single key in another word."""
    if where.start is None or where.end is None:
        return True
    return where.start < where.end and where.end != where.start + b"\x00"
