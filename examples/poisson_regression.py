"""How many exercises can a man do? Poisson regression by L-BFGS, on measurements that were taken in a fitness club.

The data are `linnerud` of scikit-learn: weight, waist and pulse of twenty middle-aged men, and how many chin-ups,
sit-ups and jumps each of them made. A count y of an exercise is taken to be Poisson distributed with mean
exp(x·w + b), where x are the standardised measurements. All exercises are fitted together: their log-likelihoods
are added.

Twenty men are a few kilobytes, and are fitted in this process. `--men 200000` lets as many more do the exercises,
drawn from the model that was fitted, their rows on the workers: then the fit should give that model back.

    python examples/poisson_regression.py
    python examples/poisson_regression.py --men 200000      # a local Ray, one worker for each core

scikit-learn's `PoissonRegressor` solves the same problem for comparison. With `import torch` in place of the line
below, all runs in torch.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_linnerud
from sklearn.linear_model import PoissonRegressor

import distgrad as torch

EXERCISES = ("chin-ups", "sit-ups", "jumps")
MEASUREMENTS = ("weight", "waist", "pulse")


def men() -> tuple[np.ndarray, np.ndarray]:
    """Standardised measurements and counts, a row for each man."""
    data = load_linnerud()
    x = data.target
    return (x - x.mean(0)) / x.std(0), data.data


def negative_log_likelihood(x: Any, y: Any, w: Any, b: Any) -> Any:
    """The mean of exp(x·w + b) − y (x·w + b), which is −log p(y) but for a term without w and b."""
    return torch.nn.functional.poisson_nll_loss(x @ w + b, y, log_input=True)


def fit(x: Any, y: Any) -> tuple[Any, Any, list[float]]:
    """Weights, intercepts, and the losses after each step of at most twenty iterations."""
    w = torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.log(y.mean(0)).detach().requires_grad_()
    optimizer = torch.optim.LBFGS([w, b], line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = negative_log_likelihood(x, y, w, b)
        loss.backward()
        return loss

    losses = []
    for _ in range(5):
        optimizer.step(closure)
        losses.append(closure().item())
        if len(losses) > 1 and losses[-2] - losses[-1] < 1e-12:
            break
    return w.detach(), b.detach(), losses


def deviance(x: Any, y: Any, w: Any, b: Any) -> tuple[float, float]:
    """Twice the log-likelihood that the model lacks, and that a model without measurements lacks."""

    def lacking(mean: Any) -> float:
        return float(2 * (torch.xlogy(y, y / mean) - y + mean).sum())

    return lacking(torch.exp(x @ w + b)), lacking(y.mean(0).expand(y.shape))


def report(x: Any, y: Any, w: Any, b: Any, losses: list[float]) -> None:
    """Print what was found."""
    print(f"{len(x)} men, {len(losses)} steps of L-BFGS, loss {losses[-1]:.6f}")
    for j, exercise in enumerate(EXERCISES):
        effects = ", ".join(f"{m} {w[i, j].item():+.3f}" for i, m in enumerate(MEASUREMENTS))
        print(f"{exercise:>9}: {torch.exp(b)[j].item():6.1f} for the average man, log-mean {effects}")
    left, whole = deviance(x, y, w, b)
    print(f"deviance {left:.1f} of {whole:.1f}: the measurements explain {1 - left / whole:.0%}")


def main() -> None:
    """Fit the twenty men, and as many more as are asked for."""
    parser = argparse.ArgumentParser(description="Poisson regression by L-BFGS.")
    parser.add_argument("--men", type=int, default=0, help="draw so many from the model, and fit those too")
    options = parser.parse_args()
    measured, counted = men()
    x, y = torch.tensor(measured), torch.tensor(counted)
    w, b, losses = fit(x, y)
    report(x, y, w, b, losses)
    peer = [PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(measured, counts) for counts in counted.T]
    apart = max(np.abs(p.coef_ - w[:, j].numpy()).max() for j, p in enumerate(peer))
    print(f"scikit-learn's weights differ by {apart:.1e} at most")
    if options.men:
        torch.manual_seed(0)
        many = torch.randn(options.men, x.shape[1], dtype=x.dtype)
        drawn = torch.poisson(torch.exp(many @ w + b))
        again, base, losses = fit(many, drawn)
        print()
        report(many, drawn, again, base, losses)
        print(f"weights differ from those of the model by {(again - w).abs().max().item():.4f} at most")


if __name__ == "__main__":
    main()
