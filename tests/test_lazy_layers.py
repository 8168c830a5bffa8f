"""Layers that learn their sizes from the first input, or that are another layer under a further name."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType

import numpy as np
import pytest


def test_sizes_follow_from_the_first_input(anywhere: ModuleType) -> None:
    torch, nn = anywhere, anywhere.nn
    model = nn.Sequential(
        nn.LazyConv2d(4, 3, padding=1, groups=1),
        nn.LazyBatchNorm2d(),
        nn.LazyConvTranspose2d(2, 2, bias=False),
        nn.LazyInstanceNorm2d(track_running_stats=False),
        nn.Flatten(),
        nn.LazyLinear(1),
    )
    assert repr(model[5]) == "LazyLinear(in_features=0, out_features=1, bias=True)"
    assert repr(model.state_dict()["0.weight"]) == "<UninitializedParameter>"
    assert model[1].has_uninitialized_params()
    model(torch.ones(5, 3, 4, 4)).sum().backward()
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    assert shapes == {
        "0.weight": (4, 3, 3, 3),
        "0.bias": (4,),
        "1.weight": (4,),
        "1.bias": (4,),
        "1.running_mean": (4,),
        "1.running_var": (4,),
        "1.num_batches_tracked": (),
        "2.weight": (4, 2, 2, 2),
        "3.weight": (2,),
        "3.bias": (2,),
        "5.weight": (1, 50),
        "5.bias": (1,),
    }
    assert [type(layer).__name__ for layer in model] == [
        *("Conv2d", "BatchNorm2d", "ConvTranspose2d", "InstanceNorm2d", "Flatten", "Linear")
    ]
    assert all(type(p) is nn.Parameter and p.grad.shape == p.shape for p in model.parameters())
    assert model[1].running_var.tolist() != [1.0] * 4
    bound = 1 / np.sqrt(50)
    assert 0 < model[5].weight.abs().max().item() <= bound


def test_what_holds_nothing_says_so(anywhere: ModuleType) -> None:
    torch, nn = anywhere, anywhere.nn
    layer = nn.LazyLinear(4)
    with pytest.raises(RuntimeError, match="Can't access the shape of an uninitialized parameter or buffer"):
        assert layer.weight.shape
    with pytest.raises(ValueError, match="Attempted to use an uninitialized parameter"):
        layer.weight + 1
    with pytest.raises(RuntimeError, match="Can't access the shape of an uninitialized"):
        nn.Linear(3, 4).load_state_dict(layer.state_dict())
    with pytest.raises(
        RuntimeError, match=r"Expected 3D \(unbatched\) or 4D \(batched\) input to LazyConv2d, but got"
    ):
        nn.LazyConv2d(4, 3)(torch.ones(3, 3))
    with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
        nn.LazyConv2d(4, 3, groups=2)(torch.ones(1, 3, 4, 4))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer.double())), layer):
        assert repr(other.weight) == "<UninitializedParameter>"
    layer(torch.ones(2, 3, dtype=torch.float64))
    assert (layer.weight.dtype, repr(layer)) == (
        torch.float64,
        "Linear(in_features=3, out_features=4, bias=True)",
    )


def test_what_is_loaded_gives_the_shapes(anywhere: ModuleType) -> None:
    torch, nn = anywhere, anywhere.nn
    plain, lazy = nn.Linear(3, 4), nn.LazyLinear(4)
    assert str(nn.LazyLinear(4).load_state_dict(lazy.state_dict())) == "<All keys matched successfully>"
    lazy.load_state_dict(plain.state_dict())
    x = torch.randn(5, 3)
    assert lazy(x).tolist() == plain(x).tolist()
    assert lazy.in_features == 3
    lazy = nn.LazyLinear(4)
    lazy.load_state_dict(plain.state_dict())
    with pytest.raises(AssertionError, match="inferred from input: 5 is not equal to in_features"):
        lazy(torch.ones(2, 5))


def test_synchronized_batch_norm_is_batch_norm(anywhere: ModuleType) -> None:
    torch, nn = anywhere, anywhere.nn
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    made = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(made[0]) is nn.SyncBatchNorm
    x = torch.randn(7, 3)
    plain = nn.BatchNorm1d(3)
    assert made[0](x).tolist() == plain(x).tolist()
    assert made[0].running_mean.tolist() == plain.running_mean.tolist()
    assert made[0](x.view(7, 3, 1)).shape == (7, 3, 1)
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        made[0](x[0])


def test_local_response_norm_across_maps(anywhere: ModuleType) -> None:
    torch, nn = anywhere, anywhere.nn
    x = torch.randn(2, 5, 3, 3)
    squares = np.pad(x.numpy() ** 2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    expected = x.numpy() / (1 + 0.3 / 3 * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:])) ** 0.75
    np.testing.assert_allclose(nn.CrossMapLRN2d(3, alpha=0.3)(x).numpy(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="CrossMapLRN2d: Expected input to be 4D, got 3D"):
        nn.CrossMapLRN2d(3)(x[0])


def test_linear_cross_entropy(anywhere: ModuleType) -> None:
    torch, nn = anywhere, anywhere.nn
    x, target = torch.randn(7, 4), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    loss = nn.LinearCrossEntropyLoss(4, 3, bias=True, weight=torch.tensor([1.0, 2.0, 0.5]))
    scores = nn.functional.linear(x, loss.linear.weight, loss.linear.bias)
    expected = nn.functional.cross_entropy(scores, target, loss.weight)
    assert loss(x, target).item() == pytest.approx(expected.item(), rel=1e-6)
    assert list(loss.state_dict()) == ["weight", "linear.weight", "linear.bias"]
    wide = nn.LinearCrossEntropyLoss(4, 3, out_features=(2,), reduction="none")
    assert wide(x, torch.stack([target, target], 1)).shape == (7, 2)
    with pytest.raises(
        RuntimeError, match=r"expected equal input and linear_weight last dimensions .*got 3 and 4"
    ):
        loss(x[:, :3], target)
    with pytest.raises(NotImplementedError, match="options="):
        nn.functional.linear_cross_entropy(x, loss.linear.weight, target, options=1)


def test_fractional_max_pooling(anywhere: ModuleType) -> None:
    """Windows begin at floor((i + u) alpha) - floor(u alpha), with alpha = (length - kernel) / (size - 1)."""
    torch, nn, F = anywhere, anywhere.nn, anywhere.nn.functional
    x = torch.randn(2, 3, 9, 8).requires_grad_()
    u = torch.rand(2, 3, 2)
    found, indices = F.fractional_max_pool2d(x, (2, 3), (4, 3), return_indices=True, _random_samples=u)
    loss, gradient = 0.0, np.zeros(x.shape)
    for n, c in np.ndindex(2, 3):
        w, h = u[n, c].tolist()
        rows = [int((i + h) * 7 / 3) - int(h * 7 / 3) for i in range(3)] + [7]
        columns = [int((i + w) * 5 / 2) - int(w * 5 / 2) for i in range(2)] + [5]
        plane = x.detach().numpy()[n, c]
        for i, j in np.ndindex(4, 3):
            window = plane[rows[i] : rows[i] + 2, columns[j] : columns[j] + 3]
            a, b = np.unravel_index(window.argmax(), window.shape)
            assert found[n, c, i, j].item() == window.max()
            assert indices[n, c, i, j].item() == (rows[i] + a) * 8 + columns[j] + b
            gradient[n, c, rows[i] + a, columns[j] + b] += 1
            loss += window.max()
    found.sum().backward()
    assert x.grad.tolist() == gradient.tolist()
    assert nn.FractionalMaxPool2d(2, output_ratio=0.5)(x[0]).shape == (3, 4, 4)
    volume = torch.arange(125.0).view(1, 5, 5, 5)
    pool = nn.FractionalMaxPool3d(2, 4, _random_samples=torch.zeros(1, 1, 3))
    assert pool(volume)[0, :, 0, 0].tolist() == [31.0, 56.0, 81.0, 106.0]
    assert list(pool.state_dict()) == ["_random_samples"]
    with pytest.raises(RuntimeError, match="pool height 7 too large relative to input height 9"):
        F.fractional_max_pool2d(x, 7, 4)
    with pytest.raises(ValueError, match=r"output_ratio must be between 0 and 1 \(got 1.5\)"):
        nn.FractionalMaxPool2d(2, output_ratio=1.5)
    with pytest.raises(ValueError, match="requires specifying either an output_size or an output_ratio"):
        F.fractional_max_pool2d(x, 2)


def test_functions_at_the_top(anywhere: ModuleType) -> None:
    """They take a number for the reduction, and the weight before the statistics."""
    torch, F = anywhere, anywhere.nn.functional
    x, y = torch.rand(5, 4), torch.rand(5, 4)
    one, mean, var = torch.ones(4), torch.full((4,), 0.5), torch.full((4,), 2.0)
    pairs = [
        (
            torch.batch_norm(x, one * 2, one, mean, var, False, 0.1, 1e-5, False),
            F.batch_norm(x, mean, var, one * 2, one),
        ),
        (torch.layer_norm(x, (4,), one), F.layer_norm(x, (4,), one)),
        (torch.group_norm(x, 2), F.group_norm(x, 2)),
        (torch.rms_norm(x, (4,)), F.rms_norm(x, (4,))),
        (
            torch.instance_norm(x[None], None, None, None, None, True, 0.1, 1e-5, False),
            F.instance_norm(x[None]),
        ),
        (torch.kl_div(x, y), F.kl_div(x, y, reduction="none").mean()),
        (
            torch.hinge_embedding_loss(x, y.sign(), 1.0, 2),
            F.hinge_embedding_loss(x, y.sign(), reduction="sum"),
        ),
        (
            torch.triplet_margin_loss(x, y, x * 2, reduction=0),
            F.triplet_margin_loss(x, y, x * 2, reduction="none"),
        ),
        (torch.binary_cross_entropy_with_logits(x, y), F.binary_cross_entropy_with_logits(x, y)),
        (torch.poisson_nll_loss(x, y, True, False, 1e-8, 1), F.poisson_nll_loss(x, y)),
        (torch.cosine_embedding_loss(x, y, one.new_ones(5)), F.cosine_embedding_loss(x, y, one.new_ones(5))),
        (torch.dropout(x, 1.0, True), x * 0),
        (torch.dropout(x, 0.5, False), x),
    ]
    for found, expected in pairs:
        assert found.tolist() == expected.tolist()
    torch.dropout_(x, 1.0, True)
    assert x.abs().sum().item() == 0
    kept = torch.feature_dropout(torch.ones(50, 4, 3), 0.5, True)
    assert {tuple(row) for rows in kept.tolist() for row in rows} == {(0.0,) * 3, (2.0,) * 3}
    with pytest.raises(ValueError, match="3 is not a valid value for reduction"):
        torch.kl_div(y, y, 3)
