"""A small convolutional network that reads handwritten digits.

The data are scikit-learn's 1,797 digits of 8 × 8 pixels, of which a fifth is held out. Two convolutions that halve
the pictures, with batch normalisation, and one linear layer; training is SGD with Nesterov's momentum and a learning
rate that falls as a cosine. What was learnt is saved and loaded again at the end.

    python examples/digits_convnet.py
    python examples/digits_convnet.py --epochs 30

The code runs with PyTorch as well: `import torch` in place of the import of distgrad.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import distgrad as torch

nn, F = torch.nn, torch.nn.functional

DIGITS = 10


class ConvNet(nn.Sequential):
    """From pictures (batch, 1, 8, 8) to a score for each digit (batch, 10)."""

    def __init__(self, channels: int = 16, dropout: float = 0.25):
        super().__init__(
            nn.Conv2d(1, channels, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * channels * 4, DIGITS),
        )


def train(model: Any, optimizer: Any, batches: Iterable[Any]) -> list[float]:
    """One pass over the batches; gives the loss of each."""
    losses = []
    model.train()
    for pictures, digits in batches:
        loss = F.cross_entropy(model(pictures), digits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
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
    pictures, held_out = (torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) for x in parts[:2])
    digits, answers = (torch.tensor(y) for y in parts[2:])
    return [pictures, digits, held_out, answers]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the losses, test, save and load."""
    parser = argparse.ArgumentParser(
        description="A small convolutional network that reads handwritten digits."
    )
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    pictures, digits, held_out, answers = split_digits(options.seed)
    data = torch.utils.data.TensorDataset(pictures, digits)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    for epoch in range(1, options.epochs + 1):
        losses = train(model, optimizer, loader)
        scheduler.step()
        right = accuracy(model, held_out, answers)
        print(
            f"epoch {epoch:2}: loss {np.mean(losses):.3f}, {right:.1%} of the others read right", flush=True
        )

    with TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "digits.pt")
        again = ConvNet()
        again.load_state_dict(torch.load(Path(folder) / "digits.pt"))
    print(f"saved and loaded: {accuracy(again, held_out, answers):.1%}")


if __name__ == "__main__":
    main()
