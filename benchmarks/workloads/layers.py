"""Training steps of networks of torch's layers: convolutional, recurrent, and a transformer's encoder.

The lines are the same in distgrad and torch. The parameters are drawn by NumPy, so that both begin alike; the result is
the mean loss of the minibatches of a step.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmarks.workloads.base import Step, Workload, normal

RATE = 0.01
SCALE = 0.1  # of the parameters


class Layers(Workload):
    """Base: minibatches of x and classes y, gradient descent with momentum."""

    peers = ("distgrad", "torch", "torch tuned")
    against = ("torch",)
    goal = 1.0
    batch: ClassVar[int] = 64
    shape: ClassVar[tuple[int, ...]] = ()  # of a sample
    repeats = 4
    small = {"batch": 8, "repeats": 1}

    def model(self, torch: Any) -> Any:
        """From x to the scores of ten classes."""
        raise NotImplementedError

    def minibatches(self, torch: Any) -> list[tuple[Any, Any]]:
        """As many as a step takes, on the way they come from a loader."""
        rng = np.random.default_rng(0)
        return [
            (
                torch.from_numpy(normal(rng, self.batch, *self.shape)),
                torch.from_numpy(rng.integers(0, 10, self.batch)),
            )
            for _ in range(self.repeats)
        ]

    def eager(self, torch: Any) -> Step:
        model, rng = self.model(torch), np.random.default_rng(1)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.from_numpy(normal(rng, *p.shape, scale=SCALE)))
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        pairs = self.minibatches(torch)

        def step() -> list[Any]:
            losses = []
            for x, y in pairs:
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            return [torch.stack(losses).mean().item()]

        return step


class CnnDigits(Layers):
    """As `examples/digits_convnet.py`: images that are small, with one channel."""

    name = "cnn-digits"
    what = "minibatch of 64 images 1 x 8 x 8: two convolutions 3 x 3 (16, 32 channels), pooling, one linear layer"
    shape = (1, 8, 8)

    def model(self, torch: Any) -> Any:
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


class CnnImages(Layers):
    """Three channels of 32 by 32, with batch norm, strides and a depthwise convolution."""

    name = "cnn-images"
    what = "minibatch of 64 images 3 x 32 x 32: convolutions to 32 and 64 channels, one of them depthwise, batch norm"
    shape = (3, 32, 32)

    def model(self, torch: Any) -> Any:
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.Conv2d(32, 64, 1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


class Lstm(Layers):
    """Sequences to a class, by the last output."""

    name = "lstm"
    what = "minibatch of 64 sequences of 50 x 32: an LSTM of width 128, the class by its last output"
    shape = (50, 32)

    def model(self, torch: Any) -> Any:
        nn = torch.nn

        class Last(nn.Module):  # type: ignore[name-defined, misc]
            """An LSTM and a linear layer."""

            def __init__(self, width: int) -> None:
                super().__init__()
                self.lstm, self.linear = nn.LSTM(width, 128, batch_first=True), nn.Linear(128, 10)

            def forward(self, x: Any) -> Any:
                """Scores."""
                return self.linear(self.lstm(x)[0][:, -1])

        return Last(self.shape[1])


class Encoder(Layers):
    """A transformer's encoder over short sequences."""

    name = "encoder"
    what = "minibatch of 64 sequences of 32 x 64: two encoder layers with four heads, mean over the sequence"
    shape = (32, 64)

    def model(self, torch: Any) -> Any:
        nn = torch.nn

        class Mean(nn.Module):  # type: ignore[name-defined, misc]
            """Encoder layers and a linear layer."""

            def __init__(self, width: int) -> None:
                super().__init__()
                layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.0, batch_first=True)
                self.encoder = nn.TransformerEncoder(layer, 2)
                self.linear = nn.Linear(width, 10)

            def forward(self, x: Any) -> Any:
                """Scores."""
                return self.linear(self.encoder(x).mean(1))

        return Mean(self.shape[1])
