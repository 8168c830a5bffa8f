"""The driver's only door to the workers: emit, flush, fetch, free.

`emit` computes small known things at once and records all else. A flush has a plan made (or found) for what is pending
and sends its programs, one call for each worker and stage, without waiting. `fetch` waits.
"""

from distgrad.session import batching
from distgrad.session.core import Session
from distgrad.session.door import (
    at_hand,
    begin_pass,
    begin_remat,
    below,
    bring,
    constant,
    current,
    dispatch,
    emit,
    emit_all,
    end_pass,
    explain,
    fetch,
    fetch_own,
    flush,
    init,
    inline_bytes,
    is_initialized,
    memory,
    settle,
    shard_bytes,
    shutdown,
    snapshot,
    synchronize,
)
from distgrad.session.failures import WORDED, fresh
from distgrad.session.limited import memory_budget
from distgrad.session.parts import part, put
from distgrad.session.signature import called, current_op

__all__ = [
    "WORDED",
    "Session",
    "at_hand",
    "batching",
    "begin_pass",
    "begin_remat",
    "below",
    "bring",
    "called",
    "constant",
    "current",
    "current_op",
    "dispatch",
    "emit",
    "emit_all",
    "end_pass",
    "explain",
    "fetch",
    "fetch_own",
    "flush",
    "fresh",
    "init",
    "inline_bytes",
    "is_initialized",
    "memory",
    "memory_budget",
    "part",
    "put",
    "settle",
    "shard_bytes",
    "shutdown",
    "snapshot",
    "synchronize",
]
