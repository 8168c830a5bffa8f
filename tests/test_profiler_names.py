"""`autograd.profiler`: torch's names for a profile."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import distgrad


def test_ops_and_regions_are_counted(anywhere: ModuleType, tmp_path: Path) -> None:
    torch = anywhere
    record = torch.autograd.profiler.record_function

    @record("decorated")
    def step(x: object) -> object:
        return (x @ x).tanh()  # type: ignore[operator]

    x = torch.rand(16, 16, requires_grad=True)
    with record("outside"):
        pass
    with torch.autograd.profiler.profile() as prof:
        with record("forward", "a note"):
            y = step(x)
            y = step(y)
        y.sum().backward()
        assert x.grad.isfinite().all()
    found = {a.key: a for a in prof.key_averages()}
    assert (found["forward"].count, found["decorated"].count) == (1, 2)
    assert found["forward"].cpu_time_total >= found["decorated"].cpu_time_total > 0
    assert "outside" not in found
    assert prof.table(sort_by="count", row_limit=1).splitlines()[0].split()[0] == "Name"
    prof.export_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [e["args"]["args"] for e in events if e["name"] == "forward"] == ["a note"]


def test_what_follows_a_step_is_not_of_the_step() -> None:
    distgrad.shutdown()
    with distgrad.init("inproc", workers=3, inline_bytes=0, shard_bytes=64):
        w = distgrad.randn(8, 4, requires_grad=True)
        optimizer = distgrad.optim.Adam([w])
        (w**2).sum().backward()
        optimizer.step()
        distgrad.synchronize()
        rows = distgrad.utils.data.TensorDataset(distgrad.randn(40, 8))
        with distgrad.profile() as profile:
            for (x,) in distgrad.utils.data.DataLoader(rows, 10, shuffle=True):
                x.sum().item()
            repr(distgrad.ones(2000) * 2)
            distgrad.Tensor(40, 2).numpy()
        names = {row.op for row in profile.rows}
        assert "DataLoader" in names
        assert not any("Adam" in name or "?" in name for name in names)


def test_without_a_profile_regions_do_nothing(anywhere: ModuleType) -> None:
    torch = anywhere
    with torch.autograd.profiler.record_function("nothing"):
        assert torch.ones(3).sum().item() == 3.0
    with torch.autograd.profiler.profile(enabled=False) as prof:
        pass
    assert repr(prof) == "<unfinished torch.autograd.profile>"
    with pytest.raises(NotImplementedError, match="with_stack=True is not supported"):
        torch.autograd.profiler.profile(with_stack=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        torch.autograd.profiler.profile(speed=1)
