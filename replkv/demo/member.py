"""One member of the demo: a process of its own with a Replica in it, as an application that embeds replkv would have.

``python -m replkv.demo.member NAME DIRECTORY CLUSTER`` answers its parent's questions: a JSON object per line on stdin, and one with the
same ``id`` on stdout.  When stdin ends the parent is done, or gone: the member closes and leaves nothing behind.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from replkv import KeyValue, Put, PutResult, Rejected, Replica, ReplkvError, Unavailable
from replkv.demo.ledger import REFUSED, UNKNOWN, Outcome

WORKERS = 8
"""Questions answered at the same time; the rest waits its turn."""


def status(replica: Replica) -> dict[str, Any]:
    """Return what this member knows of the cluster."""
    seen = replica.status()
    return {"state": str(seen.state), "leader": seen.raft_leader, "term": seen.raft_term, "revision": seen.revision}


def ready(replica: Replica, timeout: float) -> None:
    """Wait until the member takes part."""
    replica.wait_ready(timeout)


def put(replica: Replica, writes: list[tuple[str, str]]) -> list[Outcome]:
    """Store several pairs, all in flight at once, and return what became of each."""
    return [_outcome(future) for future in [replica.submit(Put(key, value)) for key, value in writes]]


def _outcome(future: Future[PutResult]) -> Outcome:
    try:
        return future.result().revision
    except (Rejected, Unavailable):
        return REFUSED
    except ReplkvError:
        return UNKNOWN


def get(replica: Replica, keys: list[str]) -> list[int]:
    """Read keys, linearizably, and return the revision of each."""
    pairs = [replica.get(key) for key in keys]
    return [0 if pair is None else pair.mod_revision for pair in pairs]


def history(replica: Replica, revision: int, path: str) -> int:
    """Write all that this member holds by itself, up to a revision, into a file; return how many writes that is."""
    writes = []
    for newest in replica.scan(revision=revision, consistency="local"):
        version: KeyValue | None = newest
        while version is not None:
            writes.append((version.mod_revision, version.key_text, version.text))
            version = replica.get(version.key, revision=version.mod_revision - 1, consistency="local")
    writes.sort()
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(write) + "\n" for write in writes)
    return len(writes)


QUESTIONS: dict[str, Callable[..., Any]] = {"status": status, "ready": ready, "put": put, "get": get, "history": history}


def answer(replica: Replica, question: dict[str, Any]) -> dict[str, Any]:
    """Answer one question: its result, or the error's name and text."""
    try:
        result = QUESTIONS[question["ask"]](replica, **question["with"])
    except (ReplkvError, ValueError, TypeError, OSError) as error:
        return {"id": question["id"], "error": f"{type(error).__name__}: {error}"}
    return {"id": question["id"], "result": result}


def main() -> None:
    """Open the member and answer until stdin ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    name, directory, cluster = sys.argv[1:]
    speaking = threading.Lock()

    def serve(line: str) -> None:
        text = json.dumps(answer(replica, json.loads(line)))
        with speaking:
            print(text, flush=True)

    # The Replica closes first: that ends the calls for which the pool would wait.
    with ThreadPoolExecutor(WORKERS) as pool, Replica(name, data_dir=directory, cluster=json.loads(cluster)) as replica:
        for line in sys.stdin:
            pool.submit(serve, line)


if __name__ == "__main__":
    main()
