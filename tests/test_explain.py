"""What `explain` says of pending work, before it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import distgrad as torch
from distgrad.nn import functional as F


@pytest.fixture(autouse=True)
def workers() -> Iterator[None]:
    torch.shutdown()
    with torch.init("inproc", workers=2, shard_bytes=1 << 16):
        yield


def test_totals_of_a_regression_step(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(1 << 14, 16)
    w = torch.ones(16, requires_grad=True)
    torch.synchronize()
    capsys.readouterr()
    loss = ((x @ w) ** 2).sum()
    told = torch.explain(loss)
    printed = capsys.readouterr().out
    assert printed == f"{told.text}\n"
    assert "16 shards in tiles of" in printed
    assert "contract" in printed
    assert "test_explain.py:" in printed
    assert len(told.stages) == 1
    n = 1 << 14
    assert told.flops == 2 * n * 16 + n + n  # products, squares and their sum
    assert told.bytes_moved == 2 * 4  # each worker's half of the sum, to the other
    assert told.bytes_computed == n * 4 + n * 4 + 4


def test_held_is_what_is_stored() -> None:
    x = torch.rand(1 << 14, 16)
    told = torch.explain(x)
    before = sum(m["held"] for m in torch.memory())
    torch.synchronize()
    assert told.bytes_held == x.nbytes == sum(m["held"] for m in torch.memory()) - before


def test_a_reshard_moves_what_lies_elsewhere() -> None:
    x = torch.rand(1 << 14, 16)
    torch.synchronize()
    moved = torch.explain(x.reshard({1: 8})).bytes_moved
    assert moved == x.nbytes // 2  # each worker keeps its rows of its columns
    assert torch.explain(x.reshard(1 << 11)).bytes_moved == 0


def test_slices_that_meet_move_only_what_lies_across_a_border() -> None:
    x = torch.rand(1 << 17)  # 8 shards, 2 workers
    torch.synchronize()
    assert torch.explain(x[1:] - x[:-1]).bytes_moved == 4
    told = torch.explain(x[4:] + x[2:-2] + x[:-4])
    assert told.bytes_moved == 4 * 4
    assert len(told.stages) == 2


def test_work_waits_for_the_stage_that_reads_it() -> None:
    """x[:-1]**2 could be made while x[1:] moves, but would have to be kept."""
    x = torch.rand(1 << 17)
    torch.synchronize()
    told = torch.explain(((x[1:] - x[:-1] ** 2) ** 2).sum())
    assert [stage.flops > 0 for stage in told.stages] == [False, True]
    assert told.bytes_held == 0


def test_what_waits_for_a_count_is_not_made_before_it() -> None:
    """The mean of a cross entropy waits for the number of valid targets, which are counted in a stage before."""
    x, y = torch.rand(1 << 15, 8), torch.randint(0, 20, (1 << 15,))
    w = torch.rand(8, 20).requires_grad_()
    torch.synchronize()
    F.cross_entropy(x @ w, y).backward()
    torch.synchronize()
    w.grad = None
    loss = F.cross_entropy(x @ w, y)
    told = torch.explain(loss, *torch.autograd.grad(loss, w))
    assert len(told.stages) == 2
    assert [stage.flops > x.numel() * 20 for stage in told.stages] == [False, True]
    assert told.bytes_held < 4096
    assert max(told.peak_bytes) - max(m["held"] for m in torch.memory()) < x.numel() // 8 * 20 * 4 // 2


def test_nothing_is_pending(capsys: pytest.CaptureFixture[str]) -> None:
    told = torch.explain(torch.ones(3))
    assert told.stages == ()
    assert repr(told) == "<distgrad.Explanation: nothing is pending>"
    assert "nothing is pending" in capsys.readouterr().out


def test_what_is_given_back_does_not_print_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(1 << 17) + 1
    print(torch.explain(x))
    printed = capsys.readouterr().out
    assert printed.count("stage 0") == 1
    assert printed.splitlines()[-1] == (
        "<distgrad.Explanation: 1 stage, 4.06 Mflop, holds 512 KiB, moves 0 B, at most 320 KiB on a worker>"
    )


def test_it_takes_tensors() -> None:
    with pytest.raises(TypeError, match="takes Tensors, not int"):
        torch.explain(3)  # type: ignore[arg-type]
