"""One Ray for the whole run. The fixture `torch` gives the module in each of the ways a program may run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import checked  # noqa: F401 - first: it turns the checks on
import primitive_cases  # noqa: F401 - samples of all primitives
import pytest
from compiled_runs import watch
from dummies import Dummy
from hypothesis import HealthCheck, settings
from printed import Printed
from recorder import Recorder
from values import Start

import distgrad
from distgrad.cluster import start as start_workers
from distgrad.plan.plans import Plan
from distgrad.session import door, sending
from distgrad.worker.compiled import CompiledCall
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker

# Each program that is new to this machine takes 0.1 s to compile, and the tests have thousands; so loops run on NumPy
# but where compiling is tested, or if DISTGRAD_COMPILE is 1 (as in make sweep for what it may touch).
os.environ.setdefault("DISTGRAD_COMPILE", "0")

# A run that was started in the background ignores SIGINT, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "distgrad",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("distgrad")

TIMEOUT = 120
ON_RAY = "workers"  # the way in which the fixture `torch` runs a test on Ray
BUSY = 300  # seconds in which a Ray starts on a machine that has other work, such as a second Ray


@pytest.hookimpl(tryfirst=True)  # before what has this mark is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of each test that runs in all ways, Ray runs the first case here and the others in the sweep.

    A worker in this process runs the same code on the same bytes, copied as on the way through Ray.
    """
    seen: set[str] = set()
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("torch") == ON_RAY:
            test = item.nodeid.partition("[")[0]
            if test in seen:
                item.add_marker(pytest.mark.sweep)
            seen.add(test)


@pytest.fixture(scope="session")
def ray_workers() -> Iterator[Transport]:
    """Two Ray workers that all tests of a run share."""
    transport = start_workers(workers=2, timeout=BUSY)
    yield transport
    transport.close()


@pytest.fixture(params=["driver", "inproc", ON_RAY])
def torch(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """distgrad with small tensors in the driver, with all on two workers in this process, and on two Ray workers."""
    door.shutdown()
    if request.param == ON_RAY:
        door.attach(request.getfixturevalue("ray_workers"), inline_bytes=0, shard_bytes=32, timeout=TIMEOUT)
    elif request.param == "inproc":
        door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=32)
    else:  # what is too large for the driver must not start another Ray
        door.attach(InProcess(2, Worker))
    yield distgrad
    if request.param == ON_RAY:
        door.detach()
    else:
        door.shutdown()


@pytest.fixture(params=["driver", "one worker", "three workers"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """distgrad with small tensors in the driver, and with all of them in small shards on workers in this process."""
    door.shutdown()
    if request.param == "driver":
        door.attach(InProcess(2, Worker))
    else:
        door.attach(
            InProcess(1 if request.param == "one worker" else 3, Worker), inline_bytes=0, shard_bytes=64
        )
    yield distgrad
    door.shutdown()


@pytest.fixture
def alone() -> Iterator[None]:
    """No session is left from before, and none is left."""
    door.shutdown()
    yield
    door.shutdown()


@pytest.fixture
def nests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The nests that compiled loops call."""
    return watch(monkeypatch, CompiledCall)


@pytest.fixture
def start() -> Iterator[Start]:
    """Begin a session with so many workers; all tensors are on the workers."""

    def begin(workers: int = 2, shard_bytes: int = 1 << 20, recorder: type[Recorder] = Recorder) -> Recorder:
        door.shutdown()
        transport = recorder(workers)
        door.attach(transport, inline_bytes=0, shard_bytes=shard_bytes)
        transport.calls.clear()
        return transport

    yield begin
    door.shutdown()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Two workers, shards of 1 KiB."""
    door.shutdown()
    transport = Recorder(2)
    door.attach(transport, inline_bytes=0, shard_bytes=1024)
    yield transport
    door.shutdown()


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """All plans that are made."""
    made: list[Plan] = []
    build = sending.build

    def noted(*args: Any) -> Plan:
        made.append(build(*args))
        return made[-1]

    monkeypatch.setattr(sending, "build", noted)
    return made


@pytest.fixture(scope="session")
def ours() -> Iterator[Transport]:
    """Three Ray workers without distgrad that all tests of a run share."""
    transport = start_workers(workers=3, worker=Dummy, worker_options={"start": 7}, timeout=BUSY)
    yield transport
    transport.close()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)
