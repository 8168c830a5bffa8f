"""A variational autoencoder of handwritten digits, by Kingma and Welling (2014).

The data are scikit-learn's 1,797 digits of 8 × 8 pixels. The encoder gives a normal distribution over a few hidden
numbers for each picture, the decoder the probability that each pixel is dark for given hidden numbers. What is trained
is the evidence lower bound: how well a picture is told from its hidden numbers, less how much their distribution says
beyond the standard normal one. At the end it draws digits that nobody has written.

    python examples/digits_vae.py
    python examples/digits_vae.py --epochs 200

The code runs with PyTorch as well: `import torch` in place of the import of distgrad.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import distgrad as torch

nn, F = torch.nn, torch.nn.functional

SHADES = " .:-=+*#%@"


class Autoencoder(nn.Module):
    """Pictures of 64 pixels from 0 to 1, and back by way of `hidden` numbers."""

    def __init__(self, hidden: int = 8, width: int = 128):
        super().__init__()
        self.hidden = hidden
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2 * hidden))
        self.decoder = nn.Sequential(nn.Linear(hidden, width), nn.ReLU(), nn.Linear(width, 64))

    def forward(self, pictures: Any) -> Any:
        """(score of each pixel, mean, logarithm of the variance): the hidden numbers are drawn in between."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=1)
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(drawn), mean, log_variance

    def draw(self, count: int) -> Any:
        """Pictures of hidden numbers that come from the standard normal distribution."""
        with torch.no_grad():
            return torch.sigmoid(self.decoder(torch.randn(count, self.hidden)))


def loss_of(model: Any, pictures: Any) -> Any:
    """The negative evidence lower bound of a picture, in nats: the mean over the batch."""
    scores, mean, log_variance = model(pictures)
    told = F.binary_cross_entropy_with_logits(scores, pictures, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
    return (told + divergence) / pictures.shape[0]


def train(model: Any, optimizer: Any, batches: Iterable[Any]) -> list[float]:
    """One pass over the batches; gives the loss of each."""
    losses = []
    for (pictures,) in batches:
        loss = loss_of(model, pictures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def pictures_of_digits() -> Any:
    """All digits, (1797, 64), each pixel from 0 to 1."""
    return torch.tensor(load_digits().data / 16, dtype=torch.float32)


def shown(picture: Any) -> list[str]:
    """The eight lines that show a picture."""
    levels = np.clip((np.asarray(picture) * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return ["".join(SHADES[i] * 2 for i in row) for row in levels.reshape(8, 8)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tell the losses, and show what the model draws."""
    parser = argparse.ArgumentParser(description="A variational autoencoder of handwritten digits.")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    data = torch.utils.data.TensorDataset(pictures_of_digits())
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(1, options.epochs + 1):
        losses = train(model, optimizer, loader)
        if epoch == 1 or epoch % 10 == 0 or epoch == options.epochs:
            print(f"epoch {epoch:3}: {np.mean(losses):6.2f} nats a picture", flush=True)
    print("\ndrawn by the model:")
    for line in zip(*map(shown, model.draw(4)), strict=True):
        print("   ".join(line))


if __name__ == "__main__":
    main()
