"""Config and Settings refuse what no member could live with."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import fields

from replkv.config import MAY_BE_OFF, Config, Settings
from replkv.errors import Incompatible

NUMBERS = [field.name for field in fields(Config) if field.name not in ("overload", "clients", "priority")]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1", None])
def test_config_takes_positive_finite_numbers_only(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"Config.{name}"):
        Config(**{name: value})


@pytest.mark.parametrize("value", ["", "wait", True, None, 1])
def test_what_becomes_of_too_many_calls_is_one_of_two_things(value: Any) -> None:
    assert {Config(overload="block").overload, Config(overload="raise").overload} == {"block", "raise"}
    with pytest.raises(ValueError, match='Config.overload must be "block" or "raise"'):
        Config(overload=value)


@pytest.mark.parametrize("value", ["", "a b", "ipc:///tmp/x", "inproc://x", 7421, True])
def test_clients_are_served_at_an_address_of_the_network(value: Any) -> None:
    assert {Config().clients, Config(clients="127.0.0.1").clients} == {None, "127.0.0.1"}
    with pytest.raises((TypeError, ValueError), match="address|host"):
        Config(clients=value)


def test_bytes_are_whole_numbers() -> None:
    with pytest.raises(TypeError, match="Config.segment_bytes must be an int, not float"):
        Config(segment_bytes=1e6)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0])
def test_a_session_that_never_ends_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Settings.session_ttl"):
        Settings(session_ttl=value)


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
@pytest.mark.parametrize("value", [1 << 63, 1 << 70])
def test_a_number_beyond_63_bits_is_refused_before_a_cluster_is_founded_with_it(field: Any, value: int) -> None:
    with pytest.raises(ValueError, match=f"Settings.{field.name} must be below"):
        Settings(**{field.name: value})


def test_a_session_may_last_as_long_as_the_largest_number_of_63_bits() -> None:
    """1e305 seconds were accepted once: in microseconds they are infinite, and the member stopped for good at its first entry."""
    with pytest.raises(ValueError, match="Settings.session_ttl must be below"):
        Settings(session_ttl=1e305)
    assert round(Settings(session_ttl=float((1 << 63) - 1024)).session_ttl * 1e6) < 1 << 83


@pytest.mark.parametrize("times", [{"heartbeat": 0.15}, {"promise": 0.1}, {"promise": 0.8}, {"election_timeout": 0.25}])
def test_times_that_leave_gaps_in_the_lease_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="heartbeat < promise < election_timeout"):
        Settings(**times)  # type: ignore[arg-type]  # all of these are floats


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_settings_are_numbers_above_0_and_only_automatic_compaction_can_be_off(field: Any) -> None:
    strange: list[Any] = [-1, float("nan"), float("inf"), True, "1", None]
    for value in strange:
        with pytest.raises((TypeError, ValueError), match=f"Settings.{field.name}"):
            Settings(**{field.name: value})
    if field.name in MAY_BE_OFF:
        assert getattr(Settings(**{field.name: 0}), field.name) == 0
    else:
        with pytest.raises(ValueError, match=f"Settings.{field.name}"):
            Settings(**{field.name: 0})


@pytest.mark.parametrize("name", MAY_BE_OFF)
def test_what_may_be_0_is_not_said_to_be_above_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"Settings.{name} must be at least 0 and finite, not -1"):
        Settings(**{name: -1})


def test_the_shortest_lease_lives_for_two_heartbeats() -> None:
    assert Settings(heartbeat=0.05).min_ttl == 0.1


def test_a_request_must_fit_a_frame() -> None:
    with pytest.raises(ValueError, match="max_request_bytes"):
        Settings(max_request_bytes=5 << 20)


def test_settings_survive_the_wire() -> None:
    settings = Settings(heartbeat=0.05, max_txn_ops=7, max_bytes=12345, compact_age=0, compact_revisions=0, compact_bytes=99)
    assert Settings.from_wire(settings.to_wire()) == settings


def test_settings_of_a_newer_version_are_not_guessed() -> None:
    with pytest.raises(Incompatible, match="quorum_size"):
        Settings.from_wire({**Settings().to_wire(), "quorum_size": 3})


@pytest.mark.parametrize(("name", "value"), [("block_bytes", 16 << 20), ("segment_bytes", 2 << 30)])
def test_blocks_and_segments_that_could_not_be_read_back_are_refused(name: str, value: int) -> None:
    """One member with blocks of 16 MiB made its whole cluster stop: nobody could decode what all had committed."""
    with pytest.raises(ValueError, match=f"Config.{name} is at most"):
        Config(**{name: value})  # type: ignore[arg-type]  # both are numbers


@pytest.mark.parametrize("priority", [-1, 1 << 63, 1.5, True, "1"])
def test_a_priority_is_a_whole_number(priority: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="Config.priority must be"):
        Config(priority=priority)


def test_a_priority_of_0_is_that_of_who_wants_nothing() -> None:
    assert Config(priority=0) == Config()
