"""What Ray is told through the environment, and how it is kept quiet. Imported before Ray is."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from typing import Any

# Ray reads this when it is imported. Without it Ray prints a page to stdout when a worker or a node is lost, whatever
# `log_to_driver` says; the user is told by a WorkerLostError.
_NOISE = "A worker died or was killed while executing a task|Raylet is terminated"
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", _NOISE)

from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # noqa: E402

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
TOKEN = secrets.token_hex(32)  # of a local Ray; one for the life of this process, which may start several


@contextlib.contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables while Ray starts: its processes inherit them. Ray looks for its mode and token again.

    (Ray does that once, when it is imported, and then no more.)
    """
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep the user's SIGTERM handler, if there is one: `ray.init` sets its own, which exits in an orderly way."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
