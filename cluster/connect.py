"""Which Ray is used: the one that this process has, one on this machine, or a cluster; and for how long.

Several transports may share a Ray. One that was started or joined here ends with the last of them; one that the user
initialised is left alone.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import Any

import ray

from distgrad.errors import ConnectError

from .join import canonical, join
from .local import LocalRay

Target = str | tuple[str, int]  # "local", "auto", or host and port


class _Ours:
    """The Ray that was started or joined here."""

    lock = threading.Lock()
    users = 0  # how many transports use it; 0 if there is none
    local: LocalRay | None = None


def parse(address: Any) -> Target:
    """What an address means. The variable `RAY_ADDRESS` stands in for None, as it does in Ray.

    Raises ValueError for text that means nothing.
    """
    source = ""
    if address is None:
        address, source = os.environ.get("RAY_ADDRESS") or "local", " (from RAY_ADDRESS)"
    if address in ("local", "auto"):
        return address
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):(\d{1,5})", str(address))
    if found and 0 < int(found[3]) < 65536:
        return found[1] or found[2], int(found[3])
    hint = (
        ": Ray Client is not supported; the driver runs on a node of the cluster"
        if "://" in str(address)
        else ""
    )
    raise ValueError(f'address must be None, "local", "auto" or "host:port", got {address!r}{source}{hint}')


def enter(address: Any, threads: int, object_store_memory: int | None) -> tuple[Callable[[], None], bool]:
    """Have Ray running. Returns what to call when it is not needed any more, and whether its workers have `threads`."""
    target = parse(address)
    with _Ours.lock:
        if ray.is_initialized():
            if address is not None:
                _same(target)
            if _Ours.users == 0:
                return lambda: None, False
        else:
            _end()  # of a Ray of ours that the user has shut down, something may be left
            if target == "local":
                _Ours.local = LocalRay(threads, object_store_memory)
            else:
                join(target)
        _Ours.users += 1
        return _leave, _Ours.local is not None and _Ours.local.threads == threads


def _leave() -> None:
    with _Ours.lock:
        if _Ours.users:
            _Ours.users -= 1
            if _Ours.users == 0:
                _end()


def _end() -> None:
    ray.shutdown()
    if _Ours.local is not None:
        _Ours.local.ended()
    _Ours.users, _Ours.local = 0, None


def _same(target: Target) -> None:
    """Refuse an address other than that of the Ray that this process has."""
    if not isinstance(target, str):
        here = ray.get_runtime_context().gcs_address
        if canonical(target) != here:
            raise ConnectError(
                f"this process uses the Ray at {here}: call ray.shutdown() first to join another"
            )
