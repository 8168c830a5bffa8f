"""A Ray of this process's own on this machine, that ends with it whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import ray

from distgrad.errors import ConnectError
from distgrad.worker.transport import machine_memory

from .settings import QUIET, THREAD_VARIABLES, TOKEN, environment, own_sigterm

# Ends the processes with the given numbers when the input ends, if they still are agents of Ray.
_WATCHER = (
    r"""read _; for p; do case "$(tr -d '\0' < /proc/$p/cmdline)" in ray::*Agent*) kill -9 $p;; esac; done"""
)


FREEING = "RAY_free_objects_period_milliseconds"


class LocalRay:
    """Starts Ray. All its processes have `threads` BLAS threads. `ray.shutdown()` ends it; call `ended` after that."""

    def __init__(self, threads: int, object_store_memory: int | None):
        self.threads = threads
        self._over = threading.Event()
        memory = object_store_memory or store_size()
        # All of Ray's processes inherit these variables. A runtime_env for the actors would do for the threads, but
        # then no process that Ray keeps ready could be used: 0.6 s and 80 MB for each worker.
        settings = {**dict.fromkeys(THREAD_VARIABLES, str(threads)), "RAY_USAGE_STATS_ENABLED": "0"}
        # By default Ray frees objects once in a second: what crosses in batches would all be in the store at once.
        settings[FREEING] = os.environ.get(FREEING) or "20"
        # Ray's ports are open to the network. By default Ray writes a token into the home folder; this one is known
        # to this process and its workers alone.
        settings["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE") or "token"
        if settings["RAY_AUTH_MODE"].lower() == "token":
            settings["RAY_AUTH_TOKEN"] = os.environ.get("RAY_AUTH_TOKEN") or TOKEN

        def begin() -> None:
            with environment(settings), own_sigterm():
                ray.init(address="local", include_dashboard=False, object_store_memory=memory, **QUIET)

        before = {pid for pid, _, _ in _family()}
        try:
            _in_lasting_thread(begin, self._over)
        except BaseException as error:  # also Ctrl-C: Ray does not know then what it has started so far
            ray.shutdown()
            for pid, _, name in _family():
                if pid not in before and "ray" in name:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self._over.set()
            if isinstance(error, Exception):  # Ray has no type of its own for it
                raise ConnectError(f"Ray did not start on this machine: {error}") from None
            raise
        self._watcher = _watch()

    def ended(self) -> None:
        """Ray is shut down: end what was kept beside it."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None


def store_size() -> int:
    """Bytes for the object store: a quarter of the memory, or what /dev/shm has room for.

    Shards lie in the workers; the store holds what they exchange. It takes memory as it fills, and spills to disk when
    it is full. If /dev/shm is small (containers have 64 MB) Ray puts the store on disk.
    """
    size = machine_memory()[0] // 4
    if sys.platform == "darwin":
        return min(size, 2 << 30)  # with more Ray is slow there
    room = int(shutil.disk_usage("/dev/shm").free * 0.95) if Path("/dev/shm").exists() else 0
    return max(128 << 20, min(size, room) if room > 256 << 20 else size)


def _in_lasting_thread(function: Callable[[], None], over: threading.Event) -> None:
    """Call `function` in a thread that stays until `over`.

    On Linux Ray's processes are killed when the *thread* that started them ends. So where this is not the main
    thread, one is started for it.
    """
    if threading.current_thread() is threading.main_thread():
        function()
        return
    done = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        done.set()
        over.wait()

    threading.Thread(target=run, name="distgrad-ray", daemon=True).start()
    done.wait()
    if errors:
        raise errors[0]


def _family() -> list[tuple[int, int, str]]:
    """The processes that come from this one: number, parent and command. On Linux only."""
    rows = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            rows.append((int(folder.name), parent, (folder / "cmdline").read_text(errors="replace")))
    found = [row for row in rows if row[1] == os.getpid()]
    for pid, _, _ in found:  # grows meanwhile
        found += [row for row in rows if row[1] == pid]
    return found


def _watch() -> subprocess.Popen[bytes] | None:
    """Have Ray's agents end with this process even if it is killed.

    The kernel ends Ray's servers then, and workers end with those. But two agents of 80 MB each stay for another
    minute, trying to report the loss. A shell waits for the end of its input, which this process holds, and ends them.
    """
    if not sys.platform.startswith("linux"):
        return None
    agents = [str(pid) for pid, _, name in _family() if re.match(r"ray::\w*Agent", name)]
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCHER, "distgrad-watcher", *agents],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C does not reach it
    )
