"""A small transformer that reads handwritten digits row by row.

The data are scikit-learn's 1,797 digits of 8 × 8 pixels, of which a fifth is held out. The eight rows of a picture are
a sequence; an encoder of two layers with four heads attends to all of them, and the mean of what it makes of them
decides. Training is AdamW, with a learning rate that rises and falls once, and gradients that are clipped.

    python examples/digits_transformer.py
    python examples/digits_transformer.py --epochs 40

The code runs with PyTorch as well: `import torch` in place of the import of distgrad.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import distgrad as torch

nn, F = torch.nn, torch.nn.functional

ROWS, PIXELS, DIGITS = 8, 8, 10


class Reader(nn.Module):
    """From pictures (batch, 8, 8) to a score for each digit (batch, 10)."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 2, dropout: float = 0.1):
        super().__init__()
        self.rows = nn.Linear(PIXELS, width)
        self.places = nn.Parameter(torch.randn(ROWS, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, DIGITS)

    def forward(self, pictures: Any) -> Any:
        """See the class."""
        rows = self.encoder(self.rows(pictures) + self.places)
        return self.head(self.norm(rows.mean(dim=1)))


def train(model: Any, optimizer: Any, scheduler: Any, batches: Iterable[Any]) -> list[float]:
    """One pass over the batches; gives the loss of each."""
    losses = []
    model.train()
    for pictures, digits in batches:
        loss = F.cross_entropy(model(pictures), digits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def accuracy(model: Any, pictures: Any, digits: Any) -> float:
    """The part of the pictures that is read right."""
    model.eval()
    with torch.no_grad():
        return (model(pictures).argmax(dim=1) == digits).float().mean().item()


def split_digits(seed: int = 0) -> list[Any]:
    """Pictures and digits to train on, then those to test with."""
    images, target = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, target, test_size=0.2, random_state=seed)
    pictures, held_out = (torch.tensor(x, dtype=torch.float32).reshape(-1, ROWS, PIXELS) for x in parts[:2])
    digits, answers = (torch.tensor(y) for y in parts[2:])
    return [pictures, digits, held_out, answers]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the losses, test."""
    parser = argparse.ArgumentParser(description="A small transformer that reads handwritten digits.")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    pictures, digits, held_out, answers = split_digits(options.seed)
    data = torch.utils.data.TensorDataset(pictures, digits)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps = options.epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for epoch in range(1, options.epochs + 1):
        losses = train(model, optimizer, scheduler, loader)
        right = accuracy(model, held_out, answers)
        print(
            f"epoch {epoch:2}: loss {np.mean(losses):.3f}, {right:.1%} of the others read right", flush=True
        )


if __name__ == "__main__":
    main()
