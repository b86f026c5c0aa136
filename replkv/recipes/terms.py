"""What all users of a recipe must say alike: the first one's word is kept beside its keys, and whoever says another is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv.errors import Conflict, NoLeader, OutcomeUnknown, WaitTimeout
from replkv.ops import Get, Key, Put

if TYPE_CHECKING:
    from replkv.recipes.base import Calls, Deadline
    from replkv.values import KeyValue


class Terms:
    """The terms of one recipe.

    Args:
        calls: what to call.
        what: for messages, such as "semaphore 'api'".
        key: under which they are kept.
        mine: what this user says.
        remedy: what to call to change them.
    """

    def __init__(self, calls: Calls, what: str, key: bytes, mine: bytes, remedy: str) -> None:
        self.key = key
        self.mine = mine
        self._calls = calls
        self._what = what
        self._remedy = remedy
        self._agreed = False

    async def agree(self, until: Deadline) -> None:
        """Find out, once, that all say the same.

        Raises:
            Conflict: others say something else.
            WaitTimeout: the cluster did not answer in time.
        """
        while not self._agreed:
            try:
                self.check(await self._find(until))
                self._agreed = True
            except (NoLeader, OutcomeUnknown) as error:
                if until.over:
                    raise WaitTimeout(f"{self._what} could not be asked for in time: {error}") from error

    async def _find(self, until: Deadline) -> KeyValue | None:
        known = await self._calls.get(self.key, consistency="local")
        if known is not None and known.value == self.mine:  # what differs may be out of date
            return known
        result = await self._calls.txn(
            compare=[Key(self.key).missing], then=[Put(self.key, self.mine)], otherwise=[Get(self.key)], timeout=until.left
        )
        return None if result else result.responses[0]

    def check(self, found: KeyValue | None) -> None:
        """Check what others say; where there is nothing it is to be found out anew.

        Raises:
            Conflict: it is something else.
        """
        self._agreed = found is not None
        if found is not None and found.value != self.mine:
            raise Conflict(f"{self._what} has {found.text}, not {self.mine.decode()}: say the same, or {self._remedy}", found)
