"""Learning from patients without learning about any of them: gradients of each sample, clipped, summed and blurred.

The data are scikit-learn's 569 breast tumours, 30 measures of each, benign or malignant. Plain training may remember a
single patient. Here the gradient of each sample is made no longer than `clip`, and noise that is as large as one
such gradient is added to their sum (Abadi et al. 2016), so no patient can change the model much. The gradients of all
samples come from `vmap(grad(loss))`: from one pass, not from a loop.

    python examples/per_sample_gradients.py
    python examples/per_sample_gradients.py --noise 0 --clip 1e9    # plain gradient descent

At the end it tells which patients pull hardest at the model: those that it finds hard to understand.

The code runs with PyTorch as well: `import torch` in place of the import of distgrad.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

import distgrad as torch

nn, F = torch.nn, torch.nn.functional
grad, vmap, functional_call = torch.func.grad, torch.func.vmap, torch.func.functional_call

TEST = 169  # the last patients are kept for the test


def patients() -> tuple[Any, Any]:
    """Measures, each with mean 0 and variance 1, and 1.0 for the malignant tumours; in random order."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    measures = (data.data - data.data.mean(0)) / data.data.std(0)
    malignant = 1 - data.target
    return (
        torch.tensor(measures[order], dtype=torch.float32),
        torch.tensor(malignant[order], dtype=torch.float32),
    )


def network(width: int = 16) -> Any:
    """From the measures to the score of being malignant."""
    return nn.Sequential(nn.Linear(30, width), nn.Tanh(), nn.Linear(width, 1))


def gradients_of_each(model: Any, params: dict[str, Any], x: Any, y: Any) -> dict[str, Any]:
    """For each parameter the gradients of all samples, side by side along dimension 0."""

    def loss(params: dict[str, Any], sample: Any, target: Any) -> Any:
        score = functional_call(model, params, (sample,)).squeeze()
        return F.binary_cross_entropy_with_logits(score, target)

    return vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)


def norms_of_each(grads: dict[str, Any]) -> Any:
    """The length of each sample's gradient, over all parameters."""
    return sum(g.flatten(1).square().sum(1) for g in grads.values()).sqrt()


def private_gradient(grads: dict[str, Any], clip: float, noise: float) -> dict[str, Any]:
    """The mean of the clipped gradients, with noise of `noise * clip` in their sum."""
    norms = norms_of_each(grads)
    factors = (clip / (norms + 1e-12)).clamp(max=1.0)
    made = {}
    for name, g in grads.items():
        total = torch.tensordot(factors, g, dims=1)
        made[name] = (total + noise * clip * torch.randn_like(total)) / len(norms)
    return made


def accuracy(model: Any, params: dict[str, Any], x: Any, y: Any) -> float:
    """The share of patients that are told right."""
    scores = functional_call(model, params, (x,)).squeeze(1)
    return ((scores > 0) == (y > 0.5)).float().mean().item()


def train(
    model: Any,
    params: dict[str, Any],
    data: tuple[Any, Any],
    steps: int,
    *,
    rate: float = 1.0,
    clip: float = 1.0,
    noise: float = 1.0,
) -> tuple[dict[str, Any], list[float]]:
    """So many steps on all patients; gives the parameters, and after each step the mean length of gradients."""
    lengths = []
    for _ in range(steps):
        grads = gradients_of_each(model, params, *data)
        lengths.append(norms_of_each(grads).mean().item())
        step = private_gradient(grads, clip, noise)
        params = {name: p - rate * step[name] for name, p in params.items()}
    return params, lengths


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and print how it goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="steps in an epoch, each on all patients")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=1.0)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    x, y = patients()
    known, fresh = (x[:-TEST], y[:-TEST]), (x[-TEST:], y[-TEST:])
    model = network()
    params = {name: p.detach() for name, p in model.named_parameters()}
    for epoch in range(1, args.epochs + 1):
        params, lengths = train(model, params, known, args.steps, clip=args.clip, noise=args.noise)
        right = accuracy(model, params, *fresh)
        print(f"epoch {epoch:2}: {right:.1%} of the others right, gradients of length {lengths[-1]:.3f}")
    norms = norms_of_each(gradients_of_each(model, params, *known))
    hardest = norms.argsort(descending=True)[:5].tolist()
    print(f"half of the patients pull with less than {norms.median().item():.3f}; the hardest:")
    for i in hardest:
        kind = "malignant" if y[i].item() else "benign"
        print(f"  patient {i:3}, {kind:9}: {norms[i].item():.2f}")


if __name__ == "__main__":
    main()
