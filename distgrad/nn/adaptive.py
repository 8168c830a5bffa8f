"""An approximate softmax over many classes of very different frequency."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Items
from typing import Any, NamedTuple

from distgrad.nn import functional as F
from distgrad.nn.containers import ModuleList, Sequential
from distgrad.nn.linear import Linear
from distgrad.nn.module import Module
from distgrad.ops.compare import where
from distgrad.ops.joining import cat
from distgrad.tensor import Tensor

__all__ = ["AdaptiveLogSoftmaxWithLoss"]

CUTOFFS = (
    "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where each value is "
    "between 1 and n_classes-1"
)


class _ASMoutput(NamedTuple):
    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """log_softmax over `n_classes` sorted by frequency, in clusters that end at `cutoffs` (Grave et al. 2016).

    The head gives the first cluster's classes and one class for each of the others, `tail[i]` those of cluster i + 1
    from a projection that is `div_value` times narrower with each. Every cluster is computed for all rows, and chosen
    from: which rows belong where is not known to the driver.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Items[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if (
            cutoffs != sorted(set(cutoffs))
            or cutoffs[0] <= 0
            or cutoffs[-1] > n_classes - 1
            or any(int(c) != c for c in cutoffs)
        ):
            raise ValueError(CUTOFFS)
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = [*cutoffs, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size = cutoffs[0]
        self.n_clusters = len(cutoffs)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i, (low, high) in enumerate(itertools.pairwise(self.cutoffs)):
            width = int(in_features // div_value ** (i + 1))
            self.tail.append(
                Sequential(
                    Linear(in_features, width, bias=False, device=device, dtype=dtype),
                    Linear(width, high - low, bias=False, device=device, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.head.reset_parameters()
        for projection in self.tail:
            for layer in projection:  # type: ignore[attr-defined]
                layer.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> _ASMoutput:
        """Log probability of each target (N,), or () for an input (in_features,), and the negative of their mean."""
        self._check(input_, target_)
        input, target = (x if target_.dim() else x.unsqueeze(0) for x in (input_, target_))
        place, total = target, None  # of each target in the head, and its log probability in its cluster
        for i, (low, high) in enumerate(itertools.pairwise(self.cutoffs)):
            mine = target >= low if high == self.n_classes else (target >= low) & (target < high)
            scores = F.log_softmax(self.tail[i](input), 1)
            index = where(mine, target - low, 0)  # which a target that is too large leads beyond the end
            part = where(mine, scores.gather(1, index.unsqueeze(1)).squeeze(1), 0.0)
            total = part if total is None else total + part
            place = where(mine, self.shortlist_size + i, place)
        output = F.log_softmax(self.head(input), 1).gather(1, place.unsqueeze(1)).squeeze(1) + total
        loss = (-output).mean()
        return _ASMoutput(output if target_.dim() else output.squeeze(0), loss)

    def _check(self, input: Tensor, target: Tensor) -> None:
        if target.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.dim() and input.size(0) != target.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if input.dim() != target.dim() + 1:
            raise RuntimeError(
                f"{target.dim()}D target tensor expects {target.dim() + 1}D input tensors, but found inputs with size "
                f"{input.size()}"
            )
        known = target._value.array
        if known is not None and known.size and not (known.min() >= 0 and known.max() < self.n_classes):
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range "
                f"[{known.min()}, {known.max()}] were found. "
            )

    def log_prob(self, input: Tensor) -> Tensor:
        """The log probability of each class: (N, in_features) to (N, n_classes)."""
        scores = F.log_softmax(self.head(input), 1)
        parts = [scores[:, : self.shortlist_size]]
        for i, layer in enumerate(self.tail):
            at = self.shortlist_size + i
            parts.append(F.log_softmax(layer(input), 1) + scores[:, at : at + 1])
        return cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of each row: (N, in_features) to (N,)."""
        first = self.head(input).argmax(1)
        return where(first < self.shortlist_size, first, self.log_prob(input).argmax(1))
