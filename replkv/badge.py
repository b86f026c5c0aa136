"""Who a client says it is, and what proves it to members: a token while it is good, else a password; or its certificate, without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from replkv.auth_ops import to_user
from replkv.errors import AuthenticationFailed
from replkv.letters import VERSION, Hello, Prove
from replkv.passwords import to_password

if TYPE_CHECKING:
    from replkv.errors import ReplkvError
    from replkv.letters import Welcome

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds until a client that is let in no more tries again; each further pause is twice as long, for each try is a guess to the member."""
_NO_PASSWORD: Final = b""


class Badge:
    """What one client shows; its thread alone, and this process alone: neither its repr nor a pickle has a secret in it.

    Args:
        user: whom it says it is; empty: it says nothing.
        password: of the user; kept as long as the client, for tokens end.

    Raises:
        TypeError, ValueError: an argument is wrong, or one is missing.
    """

    def __init__(self, user: str = "", password: str | bytes | None = None) -> None:
        self.user = to_user(user) if user else ""
        if bool(user) is (password is None):
            raise ValueError("a user and its password belong together; a client whose certificate names its user needs neither")
        self._password = _NO_PASSWORD if password is None else to_password(password)
        self._token = b""
        self.refusal: ReplkvError | None = None
        """Why members do not let it in any more."""
        self.again_at = float("-inf")
        """Before that they are not asked again, in seconds."""
        self._pause = FIRST_PAUSE

    def __repr__(self) -> str:
        return f"<Badge of {self.user or 'nobody'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a badge holds secrets, and stays in the process it was made in")

    def hello(self, number: int, client: int) -> Hello:
        """Return the letter that says who it is."""
        return Hello(number, VERSION, client, self.user)

    def proof(self, number: int) -> Prove:
        """Return the letter that proves it; the password is not shown as long as a token may do."""
        return Prove(number, self._token, b"" if self._token else self._password)

    def let_in(self, welcome: Welcome) -> None:
        """Take note that a member has let it in."""
        self._token = welcome.token or self._token
        self.refusal, self.again_at, self._pause = None, float("-inf"), FIRST_PAUSE

    def has_more(self, error: ReplkvError) -> bool:
        """Tell whether there is something else to be shown, now that a member has answered with an error: the token may have ended."""
        if not isinstance(error, AuthenticationFailed):
            return False
        had_token, self._token = self._token, b""
        return had_token != b""

    def refuse(self, error: ReplkvError, now: float) -> None:
        """Take note that it is let in no more, and wait longer and longer until it is shown again."""
        self.refusal = error
        self.again_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
