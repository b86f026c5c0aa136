"""Nothing that is secret shows: a story in which every secret has a mark, and a search for the marks wherever they must not be.

No password, token or hash of a password is in a line of a log, in the text or the traceback of an error, or in the repr of any object that
is alive; no password or token in any file.  Values are in no line and no error, and in no repr but those of what a caller gets or makes
itself: a pair shows what it holds.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import itertools
import logging
import secrets
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cluster import free_ports

import replkv
from replkv import Config, Delete, Key, Put, Replica, Settings, aio, codec, connect, letters, passwords, wire
from replkv.__main__ import main
from replkv.auth_ops import ChangeAuth
from replkv.disk import RealDisk
from replkv.errors import AuthenticationFailed, Conflict, ReplkvError
from replkv.log import Log
from replkv.messages import EntryKind

PASSWORD, TOKEN, VALUE = "P4SSW0RD", b"T0KENT0K", "VA1UEVA1UE"
"""What is in all passwords, at the beginning of all tokens, and in all values of the story."""
HASH = b"scr1"
"""What every hash of a password begins with."""
SECRETS = (PASSWORD.encode(), TOKEN, HASH)
ROOT, ANN, CHANGED, WRONG = (f"{who}-{PASSWORD}-{who}" for who in ("root", "ann", "changed", "wrong"))
FAST = Settings(heartbeat=0.05, promise=0.1, election_timeout=0.5)
PATIENCE = 20.0
SHOWN = frozenset(("replkv.values", "replkv.ops"))
"""Modules whose objects hold values and show them."""

Errors = list[BaseException]


def marked(size: int, randbytes: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Make random bytes as a member does for a token, with the mark."""
    made.append((TOKEN + randbytes(size))[:size])
    return made[-1]


made: list[bytes] = []
"""All tokens of the story."""


def is_ours(each: object) -> bool:
    return str(getattr(type(each), "__module__", "")).startswith("replkv")


def shown(found: Iterable[object]) -> Iterator[tuple[type, str]]:
    """Yield the classes and reprs of those that are of this package."""
    for each in filter(is_ours, found):
        with suppress(AttributeError):  # another thread is just making it
            yield type(each), repr(each)


def alive() -> list[object]:
    """Return all objects there are, and those they refer to, for small ones are on no list."""
    listed = gc.get_objects()
    return [*listed, *itertools.chain.from_iterable(map(gc.get_referents, filter(is_ours, listed)))]


def check_reprs(found: Iterable[object]) -> int:
    """Fail if objects show secrets, and say of which classes; return how many were looked at."""
    texts = list(shown(found))
    guilty = {kind for kind, text in texts if any(secret.decode() in text for secret in SECRETS)}
    guilty |= {kind for kind, text in texts if VALUE in text and kind.__module__ not in SHOWN}
    assert not guilty
    return len(texts)


def attempt(errors: Errors, call: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Make a call that fails, and keep the error."""
    try:
        call(*arguments, **options)
    except (ReplkvError, TypeError, ValueError) as error:
        errors.append(error)
    else:
        raise AssertionError(f"{call} did not fail")


def found_users(replica: Replica) -> None:
    auth = replica.auth
    auth.add_user("root", ROOT)
    auth.add_user("ann", ANN)
    auth.add_role("app")
    auth.grant_permission("app", "readwrite", prefix="app/")
    auth.grant_role("ann", "app")
    auth.enable()


def use(calls: Any, errors: Errors) -> None:
    """Use all there is, and see it fail, with values."""
    for number in range(20):
        calls.put(f"app/{number}", f"{number}-{VALUE}-{number}")
    calls.txn(compare=[Key("app/1").value == f"1-{VALUE}-1"], then=[Put("app/t", VALUE * 3)], otherwise=[Delete("app/1")])
    found = calls.get("app/1")
    assert found.text == f"1-{VALUE}-1"
    assert calls.scan(prefix="app/").count >= 21
    with calls.watch(prefix="app/", initial=True) as watch, calls.lease(60) as lease:
        assert watch.next(PATIENCE) is not None
        calls.put("app/l", VALUE, lease=lease)
    with calls.namespace("app/").lock("job") as lock:
        calls.put("app/guarded", VALUE, guard=lock)
    attempt(errors, calls.put, "app/1", f"late-{VALUE}", if_mod_revision=1)
    attempt(errors, calls.put, "app/1", VALUE * 400_000)
    attempt(errors, calls.add, "app/1")
    attempt(errors, calls.put, "app/1", [VALUE])
    attempt(errors, calls.put, "app/1", VALUE, lease=10**6)


def refuse_users(replica: Replica, where: str, errors: Errors) -> None:
    """Give wrong passwords, and ask for what is denied."""
    attempt(errors, replica.as_user, "ann", WRONG)
    attempt(errors, replica.as_user, "ann", WRONG.encode() + b"\0" * passwords.PASSWORD_MAX)
    attempt(errors, replica.as_user, "ann", {WRONG: WRONG})
    attempt(errors, connect, where, user="ann", password=WRONG, timeout=PATIENCE)
    attempt(errors, connect, where, user="nobody", password=WRONG, timeout=PATIENCE)
    attempt(errors, connect, where, user="", password=WRONG, timeout=PATIENCE)
    attempt(errors, connect, where, password=WRONG, timeout=PATIENCE)
    attempt(errors, connect, where, user="ann", password=WRONG * 200, timeout=PATIENCE)
    attempt(errors, replica.auth.add_user, "ann", WRONG)
    attempt(errors, replica.auth.change_password, "nobody", WRONG)
    ann = replica.as_user("ann", ANN)
    attempt(errors, ann.put, "other", VALUE)
    attempt(errors, ann.auth.add_user, "eve", WRONG)
    attempt(errors, ann.auth.change_password, "root", WRONG)


def story(root: Path, errors: Errors) -> None:
    """What happens to a member, from its founding over its restart to its backup."""
    (port,) = free_ports(1)
    config = Config(clients=f"127.0.0.1:{port}", segment_bytes=1 << 16, snapshot_bytes=1 << 16, trailing_entries=16)
    where = f"127.0.0.1:{port}"
    with Replica("a", data_dir=root / "a", config=config, settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        found_users(replica)
        use(replica, errors)
        refuse_users(replica, where, errors)
        use(replica.as_user("ann", ANN), errors)
        with connect(where, user="ann", password=ANN, timeout=PATIENCE) as client, connect(root / "a", user="root", password=ROOT) as chief:
            use(client, errors)
            attempt(errors, client.put, "other", VALUE)
            attempt(errors, client.get, "other")
            assert check_reprs(alive()) > 100
            chief.auth.change_password("ann", CHANGED)
            attempt(errors, client.put, "app/1", VALUE)
            chief.backup(root / "chief.backup", timeout=PATIENCE)
        asyncio.run(ask_async(where))
        for number in range(60):  # so that snapshots are taken
            replica.put(f"fill/{number}", VALUE + secrets.token_hex(2000))
        replica.backup(root / "replica.backup", timeout=PATIENCE)
        assert check_reprs(alive()) > 100
    with Replica("a", data_dir=root / "a", config=config, settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        with connect(where, user="ann", password=CHANGED, timeout=PATIENCE) as client:
            client.put("app/1", VALUE)
        assert check_reprs(alive()) > 100


async def ask_async(where: str) -> None:
    async with aio.connect(where, user="ann", password=CHANGED, timeout=PATIENCE) as client:
        await client.put("app/async", VALUE)
        with suppress(Conflict):
            await client.put("app/async", VALUE, if_mod_revision=1)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Errors]:
    """The story; what is left of it on the disk, in the log at its most talkative, and of errors."""
    root, errors, heard = tmp_path_factory.mktemp("story"), Errors(), io.StringIO()
    handler = logging.StreamHandler(heard)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(threadName)s %(message)s"))
    logger = logging.getLogger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(secrets, "token_bytes", marked)
        try:
            story(root, errors)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
    return root, heard.getvalue(), errors


def test_no_line_of_the_log_shows_a_secret(told: tuple[Path, str, Errors]) -> None:
    _, log, _ = told
    assert "did not let a client in as user 'ann'" in log, "this is the log of the story"
    for secret in (*SECRETS, VALUE.encode()):
        assert secret.decode() not in log


def test_no_error_shows_a_secret(told: tuple[Path, str, Errors]) -> None:
    errors = told[2]
    assert {AuthenticationFailed, Conflict, replkv.PermissionDenied, replkv.TooLarge} <= set(map(type, errors))
    for error in errors:
        text = "\n".join((str(error), repr(error), *traceback.format_exception(error)))
        for secret in (*SECRETS, VALUE.encode()):
            assert secret.decode() not in text, type(error)


def hidden(data: bytes) -> Iterator[bytes]:
    """Yield what files hold: their bytes, and those of all that is compressed in them."""
    yield data
    at = data.find(zstandard.FRAME_HEADER)
    while at >= 0:
        with suppress(zstandard.ZstdError):
            plain = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj().decompress(data[at:])
            yield from hidden(plain)
        at = data.find(zstandard.FRAME_HEADER, at + 1)


def logged(directory: Path, copy: Path) -> Iterator[bytes]:
    """Yield what a log holds; sectors are stamped, so it has to be read as members read it."""
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("clients"))
    log, recovered = Log.open(RealDisk(copy), "a", 1, 1 << 16)
    log.close()
    for entry in recovered.entries:
        if entry.kind is EntryKind.BLOCK:
            for batch in codec.decode_block(entry.payload):
                yield from map(codec.pack, batch.commands)


def test_no_file_has_a_password_or_a_token_in_clear(told: tuple[Path, str, Errors], tmp_path: Path) -> None:
    root = told[0]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {"chief.backup", "replica.backup"} < {path.name for path in files}
    seen = {}
    for path in files:
        contents = list(hidden(path.read_bytes()))
        seen[path.name] = any(VALUE.encode() in content for content in contents)
        for content in contents:
            assert not any(secret in content for secret in SECRETS[:2]), path
    assert seen["chief.backup"], "it finds what is there"
    assert seen["replica.backup"]
    assert any(found for name, found in seen.items() if "snap" in name), seen
    commands = list(logged(root / "a", tmp_path / "copy"))
    assert any(VALUE.encode() in command for command in commands)
    assert any(hashlib.sha256(token).digest() in command for token in made if len(token) == letters.TOKEN for command in commands)
    assert not any(secret in command for command in commands for secret in SECRETS[:2])


def test_files_are_their_owner_s_alone(told: tuple[Path, str, Errors]) -> None:
    for path in told[0].rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_travels_does_not_show_what_it_carries() -> None:
    secret, value = PASSWORD.encode(), VALUE.encode()
    kept = passwords.hashed(secret, bytes(passwords.SALT))
    command = codec.pack((wire.AUTH, wire.ADD_USER, ("ann", kept)))
    batch = codec.pack_batch(1, 1, 1, [command, codec.pack(Put("k", value).to_wire())], ("ann", 1))
    raw = (wire.OK, (b"k", value, 1, 1, 1, 0))
    pair = replkv.KeyValue(b"k", value, 1, 1, 1)
    prove, welcome = (
        letters.Prove(1, TOKEN * 4, secret),
        letters.Welcome(1, 1, "a", bytes(16), 1, Settings(), {}, 1, "ann", 1, TOKEN * 4),
    )
    carried = (
        prove,
        welcome,
        letters.Batch(1, batch),
        letters.Read(1, (wire.TXN, ((b"k", value),), (), ()), "local"),
        letters.Outcome(1, 1, 1, (raw,)),
        letters.Answer(1, raw),
        letters.Events(1, (replkv.Event("put", pair, pair, 1),), 1, 0, True),
        letters.Part(1, value, True),
        ChangeAuth(wire.ADD_USER, ("ann", kept)),
        codec.unpack_batch(batch, lambda _: None),
    )
    assert check_reprs(carried) == len(carried)


def test_a_shell_shows_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_PASSWORD", WRONG)
    (port,) = free_ports(1)
    with Replica("a", data_dir=tmp_path / "a", config=Config(clients=f"127.0.0.1:{port}"), settings=FAST) as replica:
        found_users(replica)
        assert main(["get", "--to", f"127.0.0.1:{port}", "--user", "ann", "app/1"]) not in (0, 2)
    out, err = capsys.readouterr()
    assert PASSWORD not in out + err
