"""Averages of models, and the statistics of their layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad import nn
from distgrad.optim import swa_utils


def models(count: int) -> list[nn.Module]:
    torch.manual_seed(3)
    return [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(count)]


def weights(found: list[nn.Module]) -> list[np.ndarray]:
    return [m[0].weight.detach().numpy() for m in found]


def averaged(found: list[nn.Module], **options: Any) -> swa_utils.AveragedModel:
    average = swa_utils.AveragedModel(found[0], **options)
    for model in found:
        average.update_parameters(model)
    return average


def test_all_count_alike() -> None:
    found = models(4)
    average = averaged(found)
    np.testing.assert_allclose(
        average.module[0].weight.detach().numpy(), np.mean(weights(found), 0), rtol=1e-6
    )
    assert average.n_averaged.item() == 4
    assert "n_averaged" in average.state_dict()
    assert average(torch.ones(2, 3)).shape == (2, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"avg_fn": swa_utils.get_ema_avg_fn(0.7)},
        {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.7)},
    ],
)
def test_the_last_count_most(options: dict[str, Any]) -> None:
    found = models(4)
    want = weights(found)[0]
    for w in weights(found)[1:]:
        want = 0.7 * want + 0.3 * w
    np.testing.assert_allclose(
        averaged(found, **options).module[0].weight.detach().numpy(), want, rtol=1e-5, atol=1e-6
    )


def test_buffers_are_averaged_or_the_models() -> None:
    found = models(3)
    for n, model in enumerate(found):
        model[1].running_mean.fill_(float(n))
    assert averaged(found).module[1].running_mean.tolist() == [2.0] * 4
    assert averaged(found, use_buffers=True).module[1].running_mean.tolist() == [1.0] * 4


def test_statistics_are_those_of_all_batches() -> None:
    model = nn.BatchNorm1d(3)
    model.eval()
    batches = [torch.randn(8, 3) + n for n in range(3)]
    swa_utils.update_bn([(x, "label") for x in batches], model)
    want = np.mean([x.numpy().mean(0) for x in batches], 0)
    np.testing.assert_allclose(model.running_mean.numpy(), want, rtol=1e-5)
    assert (model.momentum, model.training) == (0.1, False)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="Invalid decay value 2 provided"):
        swa_utils.get_ema_avg_fn(2)
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be provided"):
        averaged(models(1), avg_fn=min, multi_avg_fn=min)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)])
    with pytest.raises(ValueError, match="anneal_epochs must be equal or greater than 0, got -1"):
        swa_utils.SWALR(optimizer, 0.1, -1)
    with pytest.raises(ValueError, match="anneal_strategy must be one of 'cos' or 'linear', instead got x"):
        swa_utils.SWALR(optimizer, 0.1, anneal_strategy="x")
