"""A Gaussian process whose scales and noise are found by the marginal likelihood of the data.

The data are scikit-learn's 442 patients with diabetes: from ten measurements, how far the disease has gone a year
later. Every measurement has a length scale of its own, so that the process tells which of them matter. With K the
kernel of all pairs, what is maximised is (Rasmussen and Williams 2006, equation 2.30)

    log p(y) = -(y' K⁻¹ y + log det K + n log 2π) / 2,

by way of a Cholesky factor, through which the gradient goes back.

    python examples/gaussian_process.py
    python examples/gaussian_process.py --steps 300

The code runs with PyTorch as well: `import torch` in place of the import of distgrad.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import distgrad as torch


class GaussianProcess(torch.nn.Module):
    """A process with mean 0 and the kernel amplitude² exp(-|a - b|² / 2), a and b divided by the length scales.

    Parameters are logarithms, in float64. `x` is (n, features), `y` (n,).
    """

    def __init__(self, features: int):
        super().__init__()
        double: Any = {"dtype": torch.float64}
        self.log_scales = torch.nn.Parameter(torch.full((features,), math.log(3.0), **double))
        self.log_amplitude = torch.nn.Parameter(torch.zeros((), **double))
        self.log_noise = torch.nn.Parameter(torch.full((), math.log(0.5), **double))

    def kernel(self, a: Any, b: Any) -> Any:
        """(n, features) and (m, features) to (n, m)."""
        a, b = (x / self.log_scales.exp() for x in (a, b))
        squares = (a * a).sum(1).unsqueeze(1) + (b * b).sum(1) - 2 * a @ b.T
        return (2 * self.log_amplitude - squares.clamp(min=0) / 2).exp()

    def factor(self, x: Any) -> Any:
        """The Cholesky factor of the kernel of all pairs, with the noise on the diagonal."""
        noise = (2 * self.log_noise).exp()
        return torch.linalg.cholesky(self.kernel(x, x) + noise * torch.eye(len(x), dtype=x.dtype))

    def log_likelihood(self, x: Any, y: Any) -> Any:
        """log p(y), the kernel's parameters being what they are."""
        low = self.factor(x)
        white = torch.linalg.solve_triangular(low, y.unsqueeze(1), upper=False)
        return -(white * white).sum() / 2 - low.diagonal().log().sum() - len(x) / 2 * math.log(2 * math.pi)

    def predict(self, x: Any, y: Any, new: Any) -> tuple[Any, Any]:
        """Mean and standard deviation at `new`, of a measurement with noise, given y at x."""
        low, cross = self.factor(x), self.kernel(x, new)
        white = torch.linalg.solve_triangular(low, torch.cat([y.unsqueeze(1), cross], 1), upper=False)
        mean = white[:, 1:].T @ white[:, 0]
        variance = (2 * self.log_amplitude).exp() + (2 * self.log_noise).exp() - (white[:, 1:] ** 2).sum(0)
        return mean, variance.sqrt()


def fit(model: Any, x: Any, y: Any, steps: int, rate: float = 0.05) -> list[float]:
    """Gradient steps on -log p(y) / n; gives the loss before each."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -model.log_likelihood(x, y) / len(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def split_patients(seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """Measurements to fit and to test, then the disease's progression for both, all standardised; and names."""
    found = load_diabetes(scaled=False)
    parts = train_test_split(found.data, found.target, test_size=0.2, random_state=seed)
    for i in (0, 2):  # by what is known of the first part alone
        mean, deviation = parts[i].mean(0), parts[i].std(0)
        parts[i], parts[i + 1] = ((part - mean) / deviation for part in (parts[i], parts[i + 1]))
    return parts, list(found.feature_names)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, tell what matters, predict."""
    parser = argparse.ArgumentParser(description="A Gaussian process by marginal likelihood.")
    parser.add_argument("--steps", type=int, default=100, help="steps of Adam (default: %(default)s)")
    options = parser.parse_args(arguments)

    parts, names = split_patients()
    x, new, y, answers = (torch.tensor(part, dtype=torch.float64) for part in parts)
    model = GaussianProcess(x.shape[1])
    losses = fit(model, x, y, options.steps)
    print(f"-log p(y) / n: {losses[0]:.4f} at first, {losses[-1]:.4f} after {options.steps} steps")
    scales = model.log_scales.detach().exp().tolist()
    for scale, name in sorted(zip(scales, names, strict=True)):
        print(f"length scale of {name:>4}: {scale:8.2f} standard deviations")
    with torch.no_grad():
        mean, deviation = model.predict(x, y, new)
        error = (mean - answers).abs()
        explained = 1 - (error * error).mean() / answers.var()
        inside = (error < 1.96 * deviation).double().mean()
    print(f"of the others {explained.item():.1%} of the variance is explained", end=", ")
    print(f"and {inside.item():.1%} lie within 95% limits")


if __name__ == "__main__":
    main()
