"""Config and Settings refuse what no member could live with."""

from __future__ import annotations

from typing import Any

import pytest

from replkv.config import Config, Settings
from replkv.errors import Incompatible


@pytest.mark.parametrize("name", ["timeout", "segment_bytes", "snapshot_bytes", "trailing_entries", "block_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1", None])
def test_config_takes_positive_finite_numbers_only(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"Config.{name}"):
        Config(**{name: value})


def test_bytes_are_whole_numbers() -> None:
    with pytest.raises(TypeError, match="Config.segment_bytes must be an int, not float"):
        Config(segment_bytes=1e6)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0])
def test_a_session_that_never_ends_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Settings.session_ttl"):
        Settings(session_ttl=value)


@pytest.mark.parametrize("times", [{"heartbeat": 0.15}, {"promise": 0.1}, {"promise": 0.8}, {"election_timeout": 0.25}])
def test_times_that_leave_gaps_in_the_lease_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="heartbeat < promise < election_timeout"):
        Settings(**times)  # type: ignore[arg-type]  # all of these are floats


def test_a_request_must_fit_a_frame() -> None:
    with pytest.raises(ValueError, match="max_request_bytes"):
        Settings(max_request_bytes=5 << 20)


def test_settings_survive_the_wire() -> None:
    settings = Settings(heartbeat=0.05, max_txn_ops=7)
    assert Settings.from_wire(settings.to_wire()) == settings


def test_settings_of_a_newer_version_are_not_guessed() -> None:
    with pytest.raises(Incompatible, match="quorum_size"):
        Settings.from_wire({**Settings().to_wire(), "quorum_size": 3})


@pytest.mark.parametrize(("name", "value"), [("block_bytes", 16 << 20), ("segment_bytes", 2 << 30)])
def test_blocks_and_segments_that_could_not_be_read_back_are_refused(name: str, value: int) -> None:
    """One member with blocks of 16 MiB made its whole cluster stop: nobody could decode what all had committed."""
    with pytest.raises(ValueError, match=f"Config.{name} is at most"):
        Config(**{name: value})
