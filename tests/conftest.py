"""One Ray for the whole run. The fixture `torch` gives the module in each of the ways a program may run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

import distgrad
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker

# A run that was started in the background ignores SIGINT, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "distgrad",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("distgrad")

TIMEOUT = 120


@pytest.fixture(scope="session")
def ray_workers() -> Iterator[Transport]:
    """Two Ray workers that all tests of a run share."""
    distgrad.init(workers=2, timeout=TIMEOUT)
    transport = door.detach()
    assert transport is not None
    yield transport
    transport.close()


@pytest.fixture(params=["driver", "inproc", "workers"])
def torch(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """distgrad with small tensors in the driver, with all on two workers in this process, and on two Ray workers."""
    door.shutdown()
    if request.param == "workers":
        door.attach(request.getfixturevalue("ray_workers"), inline_bytes=0, shard_bytes=32, timeout=TIMEOUT)
    elif request.param == "inproc":
        door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=32)
    else:  # what is too large for the driver must not start another Ray
        door.attach(InProcess(2, Worker))
    yield distgrad
    if request.param == "workers":
        door.detach()
    else:
        door.shutdown()
