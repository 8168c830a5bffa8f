"""Losses that ask for a margin between right and wrong, as layers; see `loss.py`."""

from __future__ import annotations

from collections.abc import Callable

from distgrad.nn import functional as F
from distgrad.nn.distance import PairwiseDistance
from distgrad.nn.loss import Loss
from distgrad.tensor import Tensor

__all__ = [
    "CosineEmbeddingLoss",
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class SoftMarginLoss(Loss):
    """log(1 + exp(-target * input)), for targets 1 and -1."""

    function = F.soft_margin_loss


class HingeEmbeddingLoss(Loss):
    """The distances `input` where the target is 1, and max(0, margin - input) where it is -1."""

    function = F.hinge_embedding_loss
    settings = ("margin",)

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        super().__init__(size_average, reduce, reduction, margin=margin)


class MarginRankingLoss(Loss):
    """max(0, margin - target * (input1 - input2))."""

    function = F.margin_ranking_loss
    settings = ("margin",)

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        super().__init__(size_average, reduce, reduction, margin=margin)

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        return self._of(input1, input2, target)


class CosineEmbeddingLoss(Loss):
    """1 - c for the cosine c between the inputs where the target is 1, max(0, c - margin) where -1."""

    function = F.cosine_embedding_loss
    settings = ("margin",)

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        super().__init__(size_average, reduce, reduction, margin=margin)

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        return self._of(input1, input2, target)


class TripletMarginLoss(Loss):
    """max(0, margin + |anchor - positive| - |anchor - negative|) by the p-norm."""

    function = F.triplet_margin_loss
    settings = (
        "margin",
        "p",
        "eps",
        "swap",
    )

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        super().__init__(size_average, reduce, reduction, margin=margin, p=p, eps=eps, swap=swap)

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        return self._of(anchor, positive, negative)


class TripletMarginWithDistanceLoss(Loss):
    """`TripletMarginLoss` with another distance."""

    function = F.triplet_margin_with_distance_loss
    settings = ("distance_function", "margin", "swap")

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ):
        if margin <= 0:
            raise ValueError(
                f"TripletMarginWithDistanceLoss: expected margin to be greater than 0, got {margin} instead"
            )
        distance = PairwiseDistance() if distance_function is None else distance_function
        super().__init__(None, None, reduction, distance_function=distance, margin=margin, swap=swap)

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        return self._of(anchor, positive, negative)
