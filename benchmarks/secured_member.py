"""A member with TLS, or with users: ``python -m benchmarks.secured_member NAME DIRECTORY CLUSTER``.

It is asked as ``benchmarks.member`` is.  ``PKI`` in its environment names a directory made by ``replkv certs``; without it nothing is
encrypted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, cast

from benchmarks.answering import answer_requests
from benchmarks.member import Driver
from replkv import TLS, Replica

USER, ROLE = "bench", "bench"
PASSWORD = "of a benchmark"  # noqa: S105  # of nothing else


class Secured(Driver):
    """What the parent may ask for.

    Args:
        replica: the member.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica, None)
        self._whole = replica

    def enable(self, permissions: int) -> None:
        """Have users: one who may do what the workloads do, and whose role has so many permissions."""
        auth = self._whole.auth
        auth.add_user("root", PASSWORD)
        auth.add_role(ROLE)
        auth.grant_permission(ROLE, "readwrite", start=b"\x00", end=b"\x7f")
        for number in range(permissions - 1):
            auth.grant_permission(ROLE, "readwrite", b"\x80%06d" % number)
        auth.add_user(USER, PASSWORD)
        auth.grant_role(USER, ROLE)
        auth.enable()

    def act(self, user: bool) -> None:
        """Have the workloads be done by the user, or by the member itself."""
        self._replica = cast("Any", self._whole.as_user(USER, PASSWORD)) if user else self._whole


def main() -> None:
    """Open the member and serve until stdin ends."""
    name, directory, cluster = sys.argv[1:]
    pki = os.environ.get("PKI")
    tls = TLS(ca=Path(pki, "ca.crt"), cert=Path(pki, f"{name}.crt"), key=Path(pki, f"{name}.key")) if pki else None
    with Replica(name, data_dir=directory, cluster=json.loads(cluster), tls=tls) as replica:
        answer_requests(Secured(replica))


if __name__ == "__main__":
    main()
