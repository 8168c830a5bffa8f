"""`profile`: what it tells of a run, and that it changes nothing; predictions beside what is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import distgrad as torch
from distgrad.errors import DistgradError
from distgrad.session import door, measure
from tests.recorder import Recorder, Watched

CLOSE = 0.15  # of what is measured: how far a prediction may be off
Step = Callable[[], Any]


@pytest.fixture
def workers() -> Iterator[None]:
    torch.shutdown()
    torch.manual_seed(0)
    with torch.init("inproc", workers=2, shard_bytes=1 << 16):
        yield


def polynomial() -> Step:
    a, b = torch.rand(1 << 17).requires_grad_(), torch.rand(1 << 17).requires_grad_()

    def step() -> Any:
        a.grad = b.grad = None
        loss = (3 * a**3 - b**2).sum()
        loss.backward()
        return loss

    return step


def training() -> Step:
    """Two layers, trained: products on whole shards, exchanges of weights and of their gradients."""
    x, y = torch.randn(2048, 64), torch.randint(0, 10, (2048,))
    w = [(0.1 * torch.randn(*shape)).requires_grad_() for shape in ((64, 256), (256, 10))]

    def step() -> Any:
        loss = torch.nn.functional.cross_entropy(torch.relu(x @ w[0]) @ w[1], y)
        loss.backward()
        with torch.no_grad():
            for p in w:
                p -= 0.1 * p.grad
                p.grad = None
        return loss

    return step


def products() -> Step:
    a, b = (torch.randn(384, 384, requires_grad=True) for _ in range(2))

    def step() -> Any:
        a.grad = b.grad = None
        loss = (a @ b).square().sum()
        loss.backward()
        return loss

    return step


def neighbours() -> Step:
    """Slices that are cut otherwise than what they are taken from."""
    x = torch.rand(1 << 18).requires_grad_()

    def step() -> Any:
        x.grad = None
        loss = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        loss.backward()
        return loss

    return step


def rows() -> Step:
    """Rows that are picked by index, from any worker."""
    u, i = torch.randn(20_000, 16, requires_grad=True), torch.randint(0, 20_000, (30_000,))

    def step() -> Any:
        u.grad = None
        loss = (u[i] ** 2).mean()
        loss.backward()
        return loss

    return step


def second_order() -> Step:
    x, y, v = torch.randn(1 << 14, 16), torch.rand(1 << 14), torch.randn(16)
    w = torch.zeros(16, requires_grad=True)

    def step() -> Any:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y)
        (g,) = torch.autograd.grad(loss, w, create_graph=True)
        (h,) = torch.autograd.grad(g @ v, w)
        return h.sum()

    return step


PROGRAMS = [polynomial, training, products, neighbours, rows, second_order]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_predictions_come_true(program: Callable[[], Step], workers: None) -> None:
    step = program()
    with torch.profile() as p:
        for _ in range(2):
            float(step().detach())
    for peak in p.peak_bytes:
        assert peak.measured > 1 << 16
        assert abs(peak.predicted - peak.measured) <= CLOSE * peak.measured
    assert abs(p.moved_bytes.predicted - p.moved_bytes.measured) <= CLOSE * p.moved_bytes.measured


def test_what_the_driver_reads_is_not_moved_between_workers(workers: None) -> None:
    x = torch.rand(1 << 16)
    with torch.profile() as p:
        x.numpy()
    assert p.calls > 0
    assert p.moved_bytes == (0, 0)


def test_explain_tells_the_peak_of_each_worker(workers: None) -> None:
    x = torch.rand(1 << 18)
    y = (x + 1).exp()
    told = torch.explain(y)
    assert "at most on each worker" in told.text
    with torch.profile() as p:
        pass
    assert p.peak_bytes == [(0, 0), (0, 0)]  # what was pending is none of the profile's
    held = [worker["held"] for worker in torch.memory()]
    for most, now in zip(told.peak_bytes, held, strict=True):
        assert now <= most <= (1 + CLOSE) * now + (1 << 18)
    assert torch.explain(x * 2).peak_bytes[0] > told.peak_bytes[0]  # what is held already counts


def test_rows_name_the_users_lines(workers: None) -> None:
    x = torch.rand(1 << 16, 4)
    w = torch.ones(4, requires_grad=True)
    with torch.profile() as p:
        for _ in range(3):
            ((x @ w) ** 2).sum().backward()
            torch.synchronize()  # else the three, which are alike, would be computed once
    found = {(row.op, Path(row.file).name): row for row in p.rows}
    product = found["mv", "test_profile.py"]
    assert product.calls == 3
    assert product.flops == 3 * 2 * 4 * (1 << 16)
    assert product.bytes == 3 * 4 * (1 << 16)
    assert product.seconds > 0
    assert [row.seconds for row in p.rows] == sorted((row.seconds for row in p.rows), reverse=True)
    assert f"test_profile.py:{product.line}" in str(p)
    assert "worker 1: busy" in str(p)


def test_times_are_told_apart(workers: None) -> None:
    x = torch.rand(1 << 18)
    with torch.profile() as p:
        for _ in range(3):
            float((x * 2).sum())
    assert len(p.worker_seconds) == 2
    assert all(seconds > 0 for seconds in (*p.worker_seconds, p.submit_seconds, p.wait_seconds))
    assert p.driver_seconds > p.plan_seconds > 0
    parts = p.driver_seconds + p.submit_seconds + p.wait_seconds + sum(p.worker_seconds)  # all in one thread
    assert parts == pytest.approx(p.seconds)
    assert sum(row.seconds for row in p.rows) < sum(p.worker_seconds)
    assert p.calls == 3


def test_the_trace_is_well_formed(workers: None, tmp_path: Path) -> None:
    step = training()
    with torch.profile() as p:
        step()
        step()
    p.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert names == {0: "driver", 1: "worker 0", 2: "worker 1"}
    tracks: dict[int, list[Any]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            tracks.setdefault(event["pid"], []).append(event)
    assert {"flush", "plan", "submit"} <= {e["name"] for e in tracks[0]}
    assert {"receive", "compute", "send"} <= {e["name"] for e in tracks[1]}
    for events in tracks.values():
        nested(events)


def nested(events: list[Any]) -> None:
    """Events of a track lie inside or beside one another."""
    open_until: list[float] = []
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        while open_until and open_until[-1] <= event["ts"] + 1e-6:
            open_until.pop()
        end = event["ts"] + event["dur"]
        assert not open_until or end <= open_until[-1] + 1e-2, event
        open_until.append(end)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_results_have_the_same_bits(program: Callable[[], Step]) -> None:
    results = []
    for profiled in (False, True):
        torch.shutdown()
        torch.manual_seed(0)
        with torch.init("inproc", workers=3, shard_bytes=1 << 14):
            step = program()
            if profiled:
                with torch.profile():
                    results.append(step().detach().numpy())
            else:
                results.append(step().detach().numpy())
    assert np.array_equal(*results)


def test_without_a_profile_nothing_is_measured() -> None:
    torch.shutdown()
    recorder = Recorder(2, Watched)
    door.attach(recorder, inline_bytes=0, shard_bytes=64)
    try:
        torch.arange(100.0).exp().sum().item()
        for worker in recorder.objects:
            assert not any(msgpack.unpackb(scene.header)["profile"] for scene in worker.scenes)
            worker.scenes.clear()
        with torch.profile():
            torch.arange(100.0).exp().sum().item()
        for worker in recorder.objects:
            assert worker.meter is not None
            assert all(msgpack.unpackb(scene.header)["profile"] for scene in worker.scenes)
        assert door.current().transport is recorder
        torch.arange(100.0).exp().sum().item()
        assert all(worker.meter is None and worker.pool.watch is None for worker in recorder.objects)
    finally:
        torch.shutdown()


def test_an_exception_in_the_block_loses_nothing(workers: None) -> None:
    x = torch.rand(1 << 16)
    p = torch.profile()
    with pytest.raises(KeyError), p:  # noqa: PT012
        float((x * 2).sum())
        y = x + 1
        raise KeyError
    assert p.calls >= 1
    assert measure.active is None
    assert float((y - x).mean()) == pytest.approx(1)


def test_an_error_on_a_worker_is_still_told(workers: None) -> None:
    x = torch.rand(1 << 16)
    index = torch.full((1 << 16,), 1 << 17)
    with pytest.raises(IndexError), torch.profile() as p:  # noqa: PT012
        x[index].sum()  # nobody holds it
        y = x[index]
    assert p.calls >= 1
    assert measure.active is None
    with pytest.raises(IndexError):
        y.sum().item()


def test_profiles_cannot_be_nested(workers: None) -> None:
    with torch.profile() as p:
        with pytest.raises(DistgradError, match="a profile is on already"), torch.profile():
            pass
        float(torch.rand(1 << 16).sum())
    assert p.calls > 0


def test_small_work_is_the_drivers() -> None:
    torch.shutdown()
    with torch.profile() as p:
        for _ in range(10):
            torch.ones(3) * 2
    assert p.driver_seconds == p.seconds > 0
    assert p.worker_seconds == p.rows == []
    assert "no work was sent to workers" in str(p)


def test_a_session_may_begin_and_end_inside() -> None:
    torch.shutdown()
    with torch.profile() as p, torch.init("inproc", workers=2, inline_bytes=0):
        float(torch.rand(1 << 16).sum())
    assert p.calls > 0
    assert sum(p.worker_seconds) > 0
    assert not torch.is_initialized()


def test_on_ray(ray_workers: Any, tmp_path: Path) -> None:
    torch.shutdown()
    door.attach(ray_workers, inline_bytes=0, shard_bytes=1 << 14)
    try:
        step = training()
        with torch.profile() as p:
            step().item()
    finally:
        door.detach()
    assert p.calls > 1
    assert all(0 < seconds < p.seconds for seconds in p.worker_seconds)
    for peak in p.peak_bytes:
        assert abs(peak.predicted - peak.measured) <= CLOSE * peak.measured
    p.save(tmp_path / "trace.json")
    events = [e for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if e["ph"] == "X"]
    for track in range(3):
        nested([e for e in events if e["pid"] == track])


def test_what_is_made_of_nothing_has_its_own_name() -> None:
    with torch.init("inproc", workers=2, shard_bytes=1 << 14):
        (torch.ones(4) * 2).sum().item()
        with torch.profile() as p:
            made = torch.randn(100, 100), torch.arange(10_000).float(), torch.rand_like(torch.ones(100, 100))
            float(sum((tensor.sum() for tensor in made), torch.zeros(())))
        named = {row.op for row in p.rows}
        assert {"randn", "arange", "rand_like"} <= named
        assert "?" not in named
