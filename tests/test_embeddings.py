"""Embedding, EmbeddingBag and the Dropout family."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

BAGS = [[5, 1, 1, 3], [], [0, 2], [4]]  # of rows
REDUCE = {"sum": np.sum, "mean": np.mean, "max": np.max}


def table(torch: ModuleType) -> Any:
    return torch.tensor(np.random.default_rng(0).normal(size=(6, 3)), requires_grad=True)


def by_hand(rows: np.ndarray, bags: list[list[int]], mode: str) -> np.ndarray:
    return np.array([REDUCE[mode](rows[bag], 0) if bag else np.zeros(rows.shape[1]) for bag in bags])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [None, 1])
def test_bags_of_uneven_lengths(torch: ModuleType, mode: str, last: bool, padding: int | None) -> None:
    weight, flat = table(torch), torch.tensor([row for bag in BAGS for row in bag])
    starts = np.cumsum([0, *map(len, BAGS)])
    offsets = torch.tensor(starts if last else starts[:-1])
    options = {"mode": mode, "include_last_offset": last, "padding_idx": padding}
    out = F.embedding_bag(flat, weight, offsets, **options)
    kept = [[i for i in bag if i != padding] for bag in BAGS]
    np.testing.assert_allclose(out.detach().numpy(), by_hand(weight.detach().numpy(), kept, mode))
    g = np.arange(12.0).reshape(4, 3) + 1
    out.backward(torch.tensor(g))
    expected = np.zeros((6, 3))
    for bag, row in zip(kept, g, strict=True):
        if mode == "max" and bag:
            best = np.array(bag)[weight.detach().numpy()[bag].argmax(0)]
            expected[best, range(3)] += row
        elif mode != "max":
            np.add.at(expected, bag, row / (max(len(bag), 1) if mode == "mean" else 1))
    np.testing.assert_allclose(weight.grad.numpy(), expected)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_one_length(torch: ModuleType, mode: str) -> None:
    layer = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=-6, dtype=torch.float64)
    assert layer.weight[0].tolist() == [0, 0, 0]
    index = np.array([[1, 2, 0], [0, 0, 0], [3, 3, 4]])
    kept = [[i for i in bag if i] for bag in index]
    rows = layer.weight.detach().numpy()
    np.testing.assert_allclose(layer(torch.tensor(index)).detach().numpy(), by_hand(rows, kept, mode))


def test_weights_of_the_samples(torch: ModuleType) -> None:
    weight, scale = table(torch), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    index, offsets = torch.tensor([5, 5, 2]), torch.tensor([0, 2])
    out = F.embedding_bag(index, weight, offsets, mode="sum", per_sample_weights=scale)
    rows = weight.detach().numpy()
    np.testing.assert_allclose(out.detach().numpy(), [3 * rows[5], 3 * rows[2]])
    out.sum().backward()
    np.testing.assert_allclose(scale.grad.numpy(), rows[[5, 5, 2]].sum(1))


def test_gradients_of_frequent_rows_are_divided(torch: ModuleType) -> None:
    layer = nn.Embedding(5, 2, padding_idx=1, scale_grad_by_freq=True)
    assert layer.weight[1].tolist() == [0, 0]
    layer(torch.tensor([[0, 0, 3], [0, 1, 1]])).sum().backward()
    assert layer.weight.grad.tolist() == [[1, 1], [0, 0], [0, 0], [1, 1], [0, 0]]
    assert repr(layer) == "Embedding(5, 2, padding_idx=1, scale_grad_by_freq=True)"


def test_from_pretrained(torch: ModuleType) -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    layer = nn.Embedding.from_pretrained(rows)
    assert not layer.weight.requires_grad
    assert layer(torch.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]
    assert nn.EmbeddingBag.from_pretrained(rows, freeze=False).weight.requires_grad


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda t: nn.Embedding(3, 2, padding_idx=3),
            AssertionError,
            "Padding_idx must be within num_embeddings",
        ),
        (lambda t: nn.Embedding(3, 2, sparse=True)(t.tensor([0])), NotImplementedError, "no sparse tensors"),
        (lambda t: F.embedding_bag(t.tensor([0]), t.ones(2, 2)), ValueError, "1D Tensor but got None"),
        (
            lambda t: F.embedding_bag(t.tensor([[0]]), t.ones(2, 2), mode="min"),
            ValueError,
            "mode has to be one of sum, mean or max",
        ),
        (
            lambda t: F.embedding_bag(t.tensor([[0]]), t.ones(2, 2), per_sample_weights=t.ones(1, 1)),
            NotImplementedError,
            "only supported for mode='sum'",
        ),
    ],
)
def test_errors(torch: ModuleType, act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act(torch)


# Dropout.
def test_dropout_keeps_the_mean_and_stops_in_eval(torch: ModuleType) -> None:
    torch.manual_seed(3)
    layer, x = nn.Dropout(0.25), torch.ones(4000)
    out = layer(x).numpy()
    assert set(np.round(out, 5)) == {0, np.float32(1.33333)}
    assert abs(out.mean() - 1) < 0.05
    assert layer.eval()(x) is x
    assert repr(layer) == "Dropout(p=0.25, inplace=False)"
    assert nn.Dropout(1.0)(x).sum().item() == 0


def test_whole_channels_are_dropped(torch: ModuleType) -> None:
    torch.manual_seed(3)
    for kind, shape in (
        (nn.Dropout1d, (20, 10, 3)),
        (nn.Dropout2d, (20, 10, 3, 2)),
        (nn.Dropout3d, (20, 10, 1, 3, 2)),
    ):
        out = kind(0.5)(torch.ones(*shape)).numpy().reshape(200, -1)
        assert (out == out[:, :1]).all()
        assert set(out[:, 0]) == {0, 2}
        assert 0.3 < (out[:, 0] > 0).mean() < 0.7
    x = torch.ones(6, 4)
    assert nn.Dropout1d(0.5, inplace=True)(x) is x
    assert set(x.numpy().ravel()) == {0, 2}


@pytest.mark.parametrize("kind", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_keeps_mean_and_variance(torch: ModuleType, kind: Any) -> None:
    torch.manual_seed(5)
    x = torch.randn(200, 100, 1, requires_grad=True)
    out = kind(0.3)(x)
    assert abs(out.mean().item()) < 0.05
    assert abs(out.std().item() - 1) < 0.05
    out.sum().backward()
    scale = 1 / np.sqrt((1.7580993408473766**2 * 0.3 + 1) * 0.7)
    assert set(np.round(x.grad.numpy().ravel(), 4)) == {0, np.float32(np.round(scale, 4))}


def test_dropout_of_shards_draws_on_the_workers(start: Any) -> None:

    transport = start(workers=3, shard_bytes=1 << 10)
    out = nn.Dropout()(distgrad.ones(64, 64))
    assert transport.calls == []
    distgrad.manual_seed(1)
    whole = F.dropout(distgrad.ones(64, 64)).numpy()
    distgrad.manual_seed(1)
    assert (F.dropout(distgrad.ones(64, 64, sharding={1: 7})).numpy() == whole).all()
    assert out.sharding.count > 1
