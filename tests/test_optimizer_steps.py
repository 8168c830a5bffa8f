"""What a step costs: one plan for all steps, no call of its own, nothing fetched, memory that stays as it is. And what
stands behind it: parameters that are changed together, their state in one storage."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from optimizer_formulas import FORMULAS, OPTIONS
from recorder import Recorder
from values import Start

import distgrad as torch
from distgrad.plan.plans import Plan
from distgrad.session import door

ROWS = 3000


def network() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Data on the workers, and parameters: two whole ones and one that is cut."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, 8, sharding=[0, 100, 1000, 3000])
    params = [torch.randn(8, 5), torch.zeros(5), torch.randn(ROWS, 5, sharding=[0, 100, 1000, 3000])]
    return x, [p.requires_grad_() for p in params]


def loss_of(x: torch.Tensor, params: list[torch.Tensor]) -> torch.Tensor:
    w, b, z = params
    return (torch.tanh(x @ w + b) - z).square().mean()


@pytest.mark.parametrize("name", FORMULAS)
def test_steps_share_one_plan_and_have_no_call_of_their_own(
    start: Start, plans: list[Plan], name: str
) -> None:
    transport = start(3, 4096)
    x, params = network()
    optimizer = getattr(torch.optim, name)(params, **OPTIONS[name][-1])
    held = set()
    for n in range(12):
        if n == 8:
            made = len(plans)
        transport.calls.clear()
        optimizer.zero_grad()
        loss_of(x, params).backward()
        door.flush()  # as where a pass is heavy
        optimizer.step()
        if n >= 8:
            assert sum(method == "run" for _, method, _ in transport.calls) == 3 * len(plans[-1].stages)
            assert len(door.current().pending) <= 4
            held.add(sum(w["held"] for w in torch.memory()))
    assert len(plans) == made
    assert len(held) == 1


def test_what_was_read_of_the_state_costs_no_memory_after_the_next_step(start: Start) -> None:
    start(2, 4096)
    x, params = network()
    optimizer = torch.optim.Adam(params)

    def held() -> int:
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(x, params).backward()
            optimizer.step()
            torch.synchronize()
        return sum(w["held"] for w in torch.memory())

    before = held()
    for state in optimizer.state.values():
        for item in state.values():
            item.numpy()
    assert held() == before


def test_a_program_that_reads_nothing_fetches_nothing(start: Start) -> None:
    transport = start(2, 4096)
    x, params = network()
    optimizer = torch.optim.NAdam(params)
    for _ in range(3):
        loss_of(x, params).backward()
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 3, 3]
    torch.synchronize()
    assert all(method != "read" for _, method, _ in transport.calls)


def trained(names: list[str], steps: list[str], **options: Any) -> dict[str, np.ndarray]:
    """Parameters after steps in which only some have gradients, and their averages."""
    params = {n: torch.full((len(names), 2), float(ord(n))).requires_grad_() for n in names}
    optimizer = torch.optim.Adam(params.values(), lr=0.1, **options)
    for t, present in enumerate(steps):
        for n, p in params.items():
            p.grad = torch.full_like(p, (ord(n) - 100) / (t + 1)) if n in present else None
        optimizer.step()
    state = {f"{n} average": optimizer.state[p]["exp_avg"].numpy() for n, p in params.items()}
    return {n: p.detach().numpy() for n, p in params.items()} | state


@pytest.mark.parametrize("inline", [True, False])
def test_parameters_come_and_go(start: Start, inline: bool) -> None:
    """The same as where each has an optimizer of its own."""
    steps = ["abcd", "ab", "cd", "abcd", "a", "bcd", "abcd", "abcd", "", "ac", "abcd"]
    if not inline:
        start(3, 1 << 20)
    together = trained(list("abcd"), steps)
    for n in "abcd":
        mine = [n if n in present else "" for present in steps]
        alone = trained([n, "x", "y", "z"], [f"{m}xyz" for m in mine])
        np.testing.assert_array_equal(together[n], alone[n])
        np.testing.assert_array_equal(together[f"{n} average"], alone[f"{n} average"])


def test_what_comes_together_is_changed_by_one_op(start: Start) -> None:
    start(2, 1 << 20)
    params = [torch.ones(3, requires_grad=True) for _ in range(6)]
    optimizer = torch.optim.Adam(params)
    for present in (6, 4, 6, 4, 6):
        for i, p in enumerate(params):
            p.grad = torch.ones(3) if i < present else None
        torch.synchronize()
        optimizer.step()
    assert [node.primitive.name for node in door.current().pending] == ["update_all", "update_all"]


@pytest.mark.parametrize("inline", [True, False])
def test_the_state_can_be_changed_by_the_user(start: Start, inline: bool) -> None:
    if not inline:
        start(2, 1 << 20)
    params = [torch.ones(3).requires_grad_() for _ in range(3)]
    optimizer = torch.optim.SGD(params, lr=1.0, momentum=0.5)

    def step() -> list[float]:
        for p in params:
            p.grad = torch.ones(3)
        optimizer.step()
        return [p[0].item() for p in params]

    assert step() == [0, 0, 0]
    averages = [optimizer.state[p]["momentum_buffer"] for p in params]
    averages[0].zero_()  # in place
    optimizer.state[params[1]]["momentum_buffer"] = torch.full((3,), 4.0)
    assert step() == [-1, -3, -1.5]
    assert averages[0].tolist() == [1, 1, 1]  # the tensor that stands in the state still
    assert optimizer.state[params[1]]["momentum_buffer"].tolist() == [3, 3, 3]
    del optimizer.state[params[2]]
    assert step() == [-2.5, -5.5, -2.5]
    params[0].data = torch.zeros(3)
    assert step()[0] == -1.75
    assert params[0].dtype is torch.float32


def test_parameters_with_elements_in_common_are_changed_one_after_the_other() -> None:
    def run(params: list[torch.Tensor], **options: Any) -> list[list[float]]:
        optimizer = torch.optim.SGD(params, lr=0.5, **options)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return [p.tolist() for p in params]

    def parts(*bounds: tuple[int, int]) -> list[torch.Tensor]:
        flat = torch.zeros(4)
        return [torch.nn.Parameter(flat[low:high]) for low, high in bounds]

    assert run(parts((0, 2), (2, 4))) == [[-0.5, -0.5], [-0.5, -0.5]]
    assert run(parts((0, 3), (1, 4), (0, 1))) == [[-1, -1, -1], [-1, -1, -0.5], [-1]]
    p, q = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        assert run([p, p, q], momentum=0.5) == [[-1], [-1], [-0.5]]  # the buffer is begun twice, as in torch


def test_parameters_may_be_tied_between_steps() -> None:
    p, q = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p, q], lr=0.5)
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert (p.item(), q.item()) == (-0.5, -0.5)
    q.data = p.data
    optimizer.step()
    assert (p.item(), q.item()) == (-1.5, -1.5)


def test_counts_may_be_set() -> None:
    p = torch.ones(2).requires_grad_()
    q = torch.ones(2).requires_grad_()
    optimizer = torch.optim.Adam([p, q])
    for _ in range(2):
        p.grad, q.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
    optimizer.state[q]["step"].fill_(10)
    optimizer.step()
    assert [optimizer.state[x]["step"].item() for x in (p, q)] == [3, 11]
    assert p[0].item() != q[0].item()


def test_state_is_not_shared_between_steps_and_saves(recorder: Recorder) -> None:
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(params)
    for p in params:
        p.grad = torch.ones(3)
    optimizer.step()
    saved = {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state_dict()["state"].items()}
    optimizer.step()
    assert saved[0]["step"].item() == 1
    assert saved[1]["exp_avg"].numpy() == pytest.approx(0.1)
    assert optimizer.state[params[1]]["exp_avg"].numpy() == pytest.approx(0.19)


def test_state_of_what_is_cut_is_copied_loaded_and_changed(start: Start) -> None:
    """It stays cut as its parameter is, in copies too; parameters may leave the others for a step."""
    start(3, 1 << 20)
    cuts: dict[int, Any] = {0: [3, 20], 1: 16}
    arrays = np.random.default_rng(0).standard_normal((4, 40, 30)).astype("float32")

    def steps(params: list[Any], optimizer: Any, times: range) -> None:
        for t in times:
            for i, p in enumerate(params):
                gradient = torch.from_numpy(arrays[(t + i) % 4]).reshard(cuts)
                p.grad = None if (t, i) == (3, 2) else gradient
            optimizer.step()

    params = [torch.from_numpy(a.copy()).reshard(cuts).requires_grad_() for a in arrays]
    optimizer = torch.optim.Adam(params)
    steps(params, optimizer, range(2))
    state = deepcopy(optimizer.state_dict())
    assert [s["exp_avg"].sharding for s in state["state"].values()] == [p.sharding for p in params]
    others = [p.detach().clone().requires_grad_() for p in params]
    other = torch.optim.Adam(others)
    other.load_state_dict(state)
    for each, mine in ((params, optimizer), (others, other)):
        steps(each, mine, range(2, 5))
        mine.state[each[0]]["exp_avg"].mul_(0.5)
        steps(each, mine, range(5, 6))
        assert mine.state[each[0]]["exp_avg"].sharding == each[0].sharding
    for p, q in zip(params, others, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
