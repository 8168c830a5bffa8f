"""Which Ray is used: the one that this process has, one on this machine, or a cluster; and for how long.

Several transports may share a Ray. One that was started or joined here ends with the last of them; one that the user
initialised is left alone.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray._private import state
from ray.experimental import internal_kv

from distgrad.errors import ConnectError

from .join import canonical, join
from .local import LocalRay

Target = str | tuple[str, int]  # "local", "auto", or host and port


class _Ours:
    """The Ray that was started or joined here."""

    lock = threading.Lock()
    users = 0  # how many transports use it; 0 if there is none
    local: LocalRay | None = None
    origin = ""
    begun = 0  # the process in which Ray was first used; a child of it, made by fork, cannot use Ray any more


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


class Entered(NamedTuple):
    """A Ray that runs."""

    leave: Callable[[], None]  # to be called when it is not needed any more
    inherited: bool  # whether its workers have the BLAS threads that are wanted
    origin: str  # what was done to have it, for the user


def enter(address: Any, threads: int, object_store_memory: int | None) -> Entered:
    """Have Ray running."""
    target = parse(address)
    if _Ours.begun not in (0, os.getpid()):
        raise ConnectError(
            f"Ray cannot be used here: process {os.getpid()} was forked from process {_Ours.begun}, which uses it, and "
            'has none of its threads. Start such processes by multiprocessing\'s "spawn", or use init("inproc") in them'
        )
    with _Ours.lock:
        _Ours.begun = os.getpid()
        if ray.is_initialized():
            if address is not None:
                _same(target)
            if _Ours.users == 0:
                return Entered(lambda: None, False, "uses this program's Ray")
        else:
            _end()  # of a Ray of ours that the user has shut down, something may be left
            if target == "local":
                _Ours.local = LocalRay(threads, object_store_memory)
                _Ours.origin = "started a local Ray"
            else:
                join(target)
                _Ours.origin = f"joined the Ray cluster at {ray.get_runtime_context().gcs_address}"
        _Ours.users += 1
        return Entered(_leave, _Ours.local is not None and _Ours.local.threads == threads, _Ours.origin)


def _forked() -> None:
    """In a child: leave the parent's Ray alone.

    Ray's threads are not here, so that a call, the end of a reference and the end of the process would all wait for
    them without end; and when the child ended, Ray would end the processes that its parent needs.
    """
    _Ours.lock = threading.Lock()
    inner = ray._private.worker
    if not inner.global_worker.connected:
        return
    _Ours.begun = _Ours.begun or os.getppid()
    atexit.unregister(inner.shutdown)
    node: Any = inner._global_node
    if node is not None:
        node.kill_all_processes = lambda *args, **options: None
    for one in (inner.global_worker, node, state.state, internal_kv.global_gcs_client):
        ctypes.pythonapi.Py_IncRef(
            ctypes.py_object(one)
        )  # for ever: their destructors would wait too, or crash
    inner.global_worker = inner.Worker()
    libc = ctypes.CDLL(None)
    if hasattr(
        libc, "on_exit"
    ):  # Linux: the process ends with its code before Ray's own C++ comes to tidy up
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_forked)


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
