"""Devices, modes, generators and names that are not there: what torch answers on a machine without accelerators."""

from __future__ import annotations

import copy
import pickle
import traceback
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad


# Devices.
def test_the_cpu_can_be_named_in_every_way(torch: ModuleType) -> None:
    x = torch.ones(2, device="cpu")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert x.to(device) is x.to("cpu") is x.to(torch.device("cpu", 0)) is x.cpu() is x
    assert x.to(torch.zeros(1, dtype=torch.float64)).dtype is torch.float64
    assert str(x.device) == "cpu"
    assert torch.get_default_device() == torch.device("cpu")
    with torch.device("cpu"):
        assert torch.zeros(1).device == torch.device("cpu")
    torch.set_default_device("cpu")
    torch.set_default_device(None)


def test_other_devices_can_be_named_and_are_refused() -> None:
    assert repr(distgrad.device("cuda:1")) == "device(type='cuda', index=1)"
    x = distgrad.ones(2)
    for make in (
        lambda: x.cuda(),
        lambda: x.to("cuda"),
        lambda: distgrad.zeros(2, device="cuda:0"),
        lambda: distgrad.set_default_device("cuda"),
        lambda: distgrad.device("cuda").__enter__(),
        lambda: distgrad.cuda.current_device(),
        lambda: distgrad.cuda.synchronize(),
    ):
        with pytest.raises(AssertionError, match=r"^Torch not compiled with CUDA enabled$"):
            make()
    with pytest.raises(RuntimeError, match=r"Expected one of cpu, cuda, .* at start of device string: foo"):
        x.to("foo")
    with pytest.raises(RuntimeError, match="Invalid device string: 'cpu:x'"):
        distgrad.device("cpu:x")
    with pytest.raises(RuntimeError, match="Cannot access accelerator device when none is available"):
        distgrad.device(0)
    with pytest.raises(RuntimeError, match="PyTorch is not linked with support for mps devices"):
        x.to("mps")
    assert (distgrad.cuda.device_count(), distgrad.backends.mps.is_available()) == (0, False)
    distgrad.cuda.manual_seed_all(0)
    distgrad.backends.cudnn.deterministic = True
    distgrad.backends.cudnn.deterministic = False


def test_settings_are_kept_or_refused() -> None:
    distgrad.use_deterministic_algorithms(True)
    assert distgrad.are_deterministic_algorithms_enabled()
    distgrad.use_deterministic_algorithms(False)
    distgrad.set_num_threads(1)
    assert distgrad.get_num_threads() == 1
    with pytest.raises(RuntimeError, match="set_num_threads expects a positive integer"):
        distgrad.set_num_threads(0)
    with pytest.warns(UserWarning, match="one thread in each process"):
        distgrad.set_num_threads(2)
    distgrad.set_num_threads(1)
    with pytest.raises(NotImplementedError, match=r"no torch\.jit\.script: leave it out"):
        distgrad.jit.script(len)
    with pytest.raises(NotImplementedError, match="lower precision"):
        distgrad.autocast("cpu")
    with distgrad.autocast("cpu", enabled=False):
        pass
    distgrad.set_default_tensor_type("torch.DoubleTensor")
    assert distgrad.ones(1).dtype is distgrad.float64
    distgrad.set_default_tensor_type(distgrad.FloatTensor)


def test_compile_gives_what_it_is_given() -> None:
    assert distgrad.compile(len, mode="reduce-overhead") is len

    @distgrad.compile(fullgraph=True)
    def double(x: Any) -> Any:
        return x * 2

    assert double(distgrad.ones(1)).item() == 2


# Generators.
FILLS: list[Any] = [
    lambda t, g: t.rand(3, 2, generator=g),
    lambda t, g: t.randn(3, 2, generator=g),
    lambda t, g: t.randint(100, (3, 2), generator=g),
    lambda t, g: t.randperm(9, generator=g),
    lambda t, g: t.normal(0.0, 1.0, (3, 2), generator=g),
    lambda t, g: t.normal(t.zeros(3, 1), t.ones(2), generator=g),
    lambda t, g: t.bernoulli(t.full((3, 2), 0.5), generator=g),
    lambda t, g: t.poisson(t.full((3, 2), 5.0), generator=g),
    lambda t, g: t.multinomial(t.ones(20), 9, generator=g),
    *(
        lambda t, g, name=name, args=args: getattr(t.zeros(9, 2), name)(*args, generator=g)
        for name, *args in (
            ("uniform_",),
            ("normal_",),
            ("exponential_",),
            ("cauchy_",),
            ("log_normal_",),
            ("geometric_", 0.2),
            ("random_", 50),
        )
    ),
]


@pytest.mark.parametrize("fill", FILLS)
def test_a_generator_gives_its_own_numbers_and_leaves_the_default_ones(torch: ModuleType, fill: Any) -> None:
    generator = torch.Generator(device="cpu").manual_seed(4)
    torch.manual_seed(1)
    expected = torch.rand(2).numpy()
    torch.manual_seed(1)
    first = fill(torch, generator).numpy()
    state = generator.get_state()
    second = fill(torch, generator).numpy()
    np.testing.assert_array_equal(torch.rand(2).numpy(), expected)
    np.testing.assert_array_equal(fill(torch, torch.Generator().manual_seed(4)).numpy(), first)
    np.testing.assert_array_equal(fill(torch, generator.set_state(state)).numpy(), second)
    assert (first != second).any()


def test_moments_of_samples(torch: ModuleType) -> None:
    torch.manual_seed(0)
    n, x = 4000, torch.empty(4000)

    def close(sample: Any, mean: float, variance: float) -> None:
        sample = sample.numpy()
        assert abs(sample.mean() - mean) < 5 * (variance / n) ** 0.5
        assert abs(sample.var() - variance) < 0.15 * variance

    close(torch.bernoulli(torch.full((n,), 0.3)), 0.3, 0.21)
    close(x.bernoulli_(0.3), 0.3, 0.21)
    close(x.bernoulli_(torch.full((n,), 0.3)), 0.3, 0.21)
    close(x.exponential_(2), 0.5, 0.25)
    close(x.geometric_(0.5), 2, 2)
    close(x.log_normal_(0, 0.25).log(), 0, 0.0625)
    close(torch.poisson(torch.full((n,), 4.0)), 4, 4)
    close(torch.normal(2.0, torch.full((n,), 3.0)), 2, 9)
    close(torch.normal(2.0, 3.0, (n,)), 2, 9)
    close(x.random_(12), 5.5, 143 / 12)
    assert abs(np.median(x.cauchy_(1, 2).numpy()) - 1) < 0.25
    drawn = torch.multinomial(torch.tensor([[1.0, 0, 3], [0, 1, 0]]), n, replacement=True).numpy()
    close(torch.tensor(drawn[0] / 2.0), 0.75, 0.1875)
    assert (drawn[1] == 1).all()


def test_samples_have_no_gradient_and_torchs_refusals() -> None:
    p = distgrad.full((3,), 0.5, requires_grad=True)
    made = distgrad.bernoulli(p)
    assert made.grad_fn.name() == "BernoulliBackward0"
    made.sum().backward()
    assert p.grad.tolist() == [0, 0, 0]
    x = distgrad.ones(2)
    for refused, words in (
        (lambda: x.exponential_(0), "exponential_ expects lambda > 0.0, but found lambda=0"),
        (lambda: x.bernoulli_(2), r"bernoulli_ expects p to be in \[0, 1\], but got p=2"),
        (lambda: x.geometric_(2), r"geometric_ expects p to be in \(0, 1\), but got p=2"),
        (lambda: x.random_(5, 5), "random_ expects 'from' to be less than 'to', but got from=5 >= to=5"),
        (lambda: x.long().exponential_(), "Exponential distribution is a continuous .* specified Long"),
        (lambda: distgrad.normal(0.0, -1.0, (2,)), "normal expects std >= 0.0, but found std -1"),
        (lambda: distgrad.normal(x, -x), "normal expects all elements of std >= 0.0"),
        (lambda: distgrad.bernoulli(x * 2), "Expected p_in >= 0 && p_in <= 1 to be true"),
        (lambda: distgrad.poisson(-x), "invalid Poisson rate, expected rate to be non-negative"),
        (lambda: distgrad.multinomial(-x, 1), "probability tensor contains either `inf`, `nan` or element <"),
        (
            lambda: distgrad.multinomial(x * 0, 1),
            "invalid multinomial distribution .sum of probabilities <= 0",
        ),
        (lambda: distgrad.multinomial(x, 3), "cannot sample n_sample > prob_dist"),
        (
            lambda: distgrad.multinomial(x.long(), 1),
            "only supports floating-point dtypes for input, got: Long",
        ),
    ):
        with pytest.raises(RuntimeError, match=words):
            refused()
    with pytest.raises(NotImplementedError, match="\"bernoulli_tensor_cpu_p_\" not implemented for 'Long'"):
        distgrad.bernoulli(x.long())
    with pytest.raises(TypeError, match=r"expected a torch\.Generator, got int"):
        distgrad.rand(2, generator=3)
    with pytest.raises(ValueError, match="Overflow when unpacking long long"):
        distgrad.manual_seed(2**64)


def test_the_state_of_random_numbers_can_be_kept_copied_and_forked(torch: ModuleType) -> None:
    torch.manual_seed(-1)
    assert torch.initial_seed() == 2**64 - 1
    state = torch.get_rng_state()
    first = torch.rand(3).numpy()
    torch.set_rng_state(state)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        torch.rand(5)
    np.testing.assert_array_equal(torch.rand(3).numpy(), first)
    generator = torch.Generator().manual_seed(3)
    twins = [
        generator,
        copy.deepcopy(generator),
        pickle.loads(pickle.dumps(generator)),
        generator.clone_state(),
    ]
    assert len({tuple(torch.rand(2, generator=g).tolist()) for g in twins}) == 1


# Names that are not there.
def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(
        AttributeError, match=r"^distgrad has no torch\.soft_max yet; near it: torch\.softmax"
    ):
        _ = distgrad.soft_max
    with pytest.raises(
        AttributeError, match=r"^distgrad has no torch\.nn\.Linaer yet; near it: torch\.nn\.Linear"
    ):
        _ = distgrad.nn.Linaer
    with pytest.raises(AttributeError, match=r"^distgrad has no torch\.nn\.functional\.qqq yet$"):
        _ = distgrad.nn.functional.qqq
    with pytest.raises(ImportError, match=r"^distgrad has no torch\.linspoce yet; near it: torch\.linspace$"):
        from distgrad import linspoce  # noqa: F401, PLC0415
    with pytest.raises(
        ImportError, match=r"^distgrad has no torch\.utils\.data\.DataLoda yet; near it: .*DataLoader"
    ):
        from distgrad.utils.data import DataLoda  # noqa: F401, PLC0415
    assert not hasattr(distgrad, "soft_max")
    assert getattr(distgrad, "soft_max", None) is None
    assert not hasattr(distgrad.ones(1), "soft_max")


def test_python_adds_no_guess_of_its_own() -> None:
    try:
        _ = distgrad.tilf
    except AttributeError as error:
        text = "".join(traceback.format_exception(error))
    assert "torch.tile" in text
    assert "Did you mean" not in text
