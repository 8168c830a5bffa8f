"""A network that learns a differential equation and no data: Burgers' equation, by its residual alone.

    u_t + u u_x = v u_xx  for -1 < x < 1 and 0 < t < 1,  u(x, 0) = -sin(pi x),  u(-1, t) = u(1, t) = 0

The output is bent so that what is known at the edges holds exactly: u = -sin(pi x) + t (1 - x²) network(x, t).
At points drawn anew for each step the residual is made of first and second derivatives of u by its inputs, which
autograd gives, and its square is made small by a gradient through all of them (Raissi et al. 2019). Afterwards u is
compared with the exact solution, Cole and Hopf's integral.

    python examples/physics_informed.py
    python examples/physics_informed.py --steps 5000

The code runs with PyTorch as well: `import torch` in place of the import of distgrad.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import distgrad as torch

nn = torch.nn

VISCOSITY = 0.05


class Solution(nn.Module):
    """u of (n, 2) points x, t: (n,)."""

    def __init__(self, width: int = 24, layers: int = 3):
        super().__init__()
        sizes = [2] + [width] * layers
        hidden: list[Any] = []
        for before, after in itertools.pairwise(sizes):
            hidden += [nn.Linear(before, after), nn.Tanh()]
        self.network = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, points: Any) -> Any:
        """See the class."""
        x, t = points[:, 0], points[:, 1]
        return -torch.sin(math.pi * x) + t * (1 - x * x) * self.network(points).squeeze(1)


def residual(model: Any, points: Any) -> Any:
    """u_t + u u_x - v u_xx at each point (n, 2)."""
    points = points.detach().requires_grad_()
    u = model(points)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), points, create_graph=True)
    return first[:, 1] + u * first[:, 0] - VISCOSITY * second[:, 0]


def draw_points(count: int) -> Any:
    """Points (count, 2), anywhere between -1 and 1 in x, and 0 and 1 in t."""
    points = torch.rand(count, 2)
    return torch.stack([2 * points[:, 0] - 1, points[:, 1]], 1)


def train(model: Any, steps: int, count: int, rate: float = 5e-3) -> list[float]:
    """Steps of Adam on the mean square of the residual, at `count` new points each; gives the losses."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        loss = (residual(model, draw_points(count)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def exact(x: np.ndarray, t: float, nodes: int = 80) -> np.ndarray:
    """The solution at the time t > 0: an integral with a normal weight, by Gauss and Hermite's rule."""
    places, weights = np.polynomial.hermite.hermgauss(nodes)
    y = x[:, None] - places * math.sqrt(4 * VISCOSITY * t)
    f = weights * np.exp(-(np.cos(np.pi * y) + 1) / (2 * math.pi * VISCOSITY))
    return -(np.sin(np.pi * y) * f).sum(1) / f.sum(1)


def error(model: Any, t: float, count: int = 201) -> float:
    """The largest distance from the exact solution at the time t."""
    x = np.linspace(-1, 1, count)
    points = torch.tensor(np.stack([x, np.full(count, t)], 1), dtype=torch.float32)
    with torch.no_grad():
        found = model(points).numpy()
    return float(np.abs(found - exact(x, t)).max())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and compare with the exact solution."""
    parser = argparse.ArgumentParser(description="Burgers' equation by a physics-informed network.")
    parser.add_argument("--steps", type=int, default=2000, help="steps of Adam (default: %(default)s)")
    parser.add_argument("--points", type=int, default=256, help="points of each step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    model = Solution()
    done = 0
    losses = train(model, options.steps, options.points)
    for part in np.array_split(losses, 10):
        done += len(part)
        print(f"step {done:5}: mean square of the residual {part.mean():.6f}")
    for t in (0.25, 0.5, 1.0):
        print(f"t = {t:4}: u is wrong by at most {error(model, t):.4f}")


if __name__ == "__main__":
    main()
