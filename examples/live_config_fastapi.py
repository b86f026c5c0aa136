"""Configuration with live reload in FastAPI: the member lives as long as the application, and what has to be done after a change is done.

    python -m uvicorn --app-dir examples --log-level warning --port 8000 live_config_fastapi:app      # alone
    curl localhost:8000/config
    curl -X PUT localhost:8000/config -H 'Content-Type: application/json' -d '{"log_level": "DEBUG", "slots": 2}'

Started as a cluster of three, on ports 8000 to 8002, a change at one of them is in force at the others too, without a restart.

Each process is a member, so there is one per host (no ``--workers``); more of them would be clients of a member: see ``replkv.connect``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from fastapi import FastAPI

from replkv import AsyncReplica, AsyncView, typed

log = logging.getLogger("app")


@dataclass(frozen=True)
class Config:
    """What can be changed while the application runs; all of it is one value, so that nobody ever sees half of a change."""

    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    slots: int = 8


CONFIG = typed(Config)  # FastAPI and replkv read the same type hints


async def follow(settings: AsyncView[Config]) -> None:
    """Do what takes more than a look at the new value: now, and after each change."""
    changes = settings.changes()  # from here on, so that none is missed between the next line and the loop
    log.setLevel(settings.get("app", Config()).log_level)
    async for change in changes:
        log.setLevel((change.value or Config()).log_level)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the member before the first request, and close it after the last one."""
    async with AsyncReplica.from_env() as replica:
        await replica.wait_ready()
        app.state.settings = await replica.view("settings/", codec=CONFIG)  # follows the cluster; to read it is to read a dictionary
        app.state.stored = replica.mapping("settings/", codec=CONFIG)
        following = asyncio.create_task(follow(app.state.settings))
        print(f"{replica.name} is ready", flush=True)
        yield
        following.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/config")
async def show() -> dict[str, object]:
    """Show what is in force in this process."""
    config: Config = app.state.settings.get("app", Config())
    return {"config": config, "log_level": logging.getLevelName(log.level)}


@app.put("/config")
async def change(config: Config) -> str:
    """Change it on all hosts: when this is answered, a majority has it on disk."""
    await app.state.stored.set("app", config)
    return "stored"
