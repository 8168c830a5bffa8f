"""Losses as layers; each says in one line what its function in `nn.functional` does, and takes its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.functional.reduction import legacy_name
from distgrad.nn.module import Module
from distgrad.tensor import Tensor

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "SmoothL1Loss",
]


class Loss(Module):
    """Applies `function` to the inputs, with the attributes that `settings` names and the reduction by keyword."""

    function: Callable[..., Tensor]
    settings: tuple[str, ...] = ()
    reduction: str

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        **settings: Any,
    ):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = legacy_name(size_average, reduce, stacklevel=4)
        self.reduction = reduction
        for name, setting in settings.items():
            setattr(self, name, setting)

    def _of(self, *inputs: Any) -> Tensor:
        settings = {name: getattr(self, name) for name in self.settings}
        return type(self).function(*inputs, reduction=self.reduction, **settings)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return self._of(input, target)


class WeightedLoss(Loss):
    """One with a weight for each class or element, a buffer."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        **settings: Any,
    ):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        if "pos_weight" in settings:
            self.register_buffer("pos_weight", settings.pop("pos_weight"))
        for name, setting in settings.items():
            setattr(self, name, setting)


# Of regression.
class L1Loss(Loss):
    """|input - target|."""

    function = F.l1_loss


class MSELoss(Loss):
    """(input - target)²."""

    function = F.mse_loss


class SmoothL1Loss(Loss):
    """d²/(2 beta) for d = |input - target| up to `beta`, and d - beta / 2 above."""

    function = F.smooth_l1_loss
    settings = ("beta",)

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ):
        super().__init__(size_average, reduce, reduction, beta=beta)


class HuberLoss(Loss):
    """d²/2 for d = |input - target| up to `delta`, and delta * (d - delta / 2) above."""

    function = F.huber_loss
    settings = ("delta",)

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(None, None, reduction, delta=delta)


class PoissonNLLLoss(Loss):
    """exp(log_input) - target * log_input; without `log_input` the first input is the rate itself."""

    function = F.poisson_nll_loss
    settings = (
        "log_input",
        "full",
        "eps",
    )

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        super().__init__(size_average, reduce, reduction, log_input=log_input, full=full, eps=eps)

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return self._of(log_input, target)


class GaussianNLLLoss(Loss):
    """(log(var) + (input - target)² / var) / 2."""

    function = F.gaussian_nll_loss
    settings = (
        "full",
        "eps",
    )

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(None, None, reduction, full=full, eps=eps)

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:  # type: ignore[override]
        """See the class."""
        return self._of(input, target, var)


class KLDivLoss(Loss):
    """target * (log(target) - input), `input` as logarithms, and `target` too with `log_target`."""

    function = F.kl_div
    settings = ("log_target",)

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ):
        super().__init__(size_average, reduce, reduction, log_target=log_target)


# Of classes.
class NLLLoss(WeightedLoss):
    """-input at each target's class, times the class's weight."""

    function = F.nll_loss
    settings = (
        "weight",
        "ignore_index",
    )

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        super().__init__(weight, size_average, reduce, reduction, ignore_index=ignore_index)


class NLLLoss2d(NLLLoss):
    """The old name of NLLLoss for images."""


class CrossEntropyLoss(WeightedLoss):
    """Cross entropy of softmax(input) over dimension 1 with classes or probabilities."""

    function = F.cross_entropy
    settings = (
        "weight",
        "ignore_index",
        "label_smoothing",
    )

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(
            weight,
            size_average,
            reduce,
            reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )


class BCELoss(WeightedLoss):
    """Cross entropy of the probabilities `input` with the probabilities `target`."""

    function = F.binary_cross_entropy
    settings = ("weight",)


class BCEWithLogitsLoss(WeightedLoss):
    """Cross entropy of the probabilities sigmoid(input) with `target`."""

    function = F.binary_cross_entropy_with_logits
    settings = (
        "weight",
        "pos_weight",
    )

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ):
        super().__init__(weight, size_average, reduce, reduction, pos_weight=pos_weight)


class MultiLabelSoftMarginLoss(WeightedLoss):
    """The mean over the classes of the cross entropy of sigmoid(input) with `target`."""

    function = F.multilabel_soft_margin_loss
    settings = ("weight",)


class MultiLabelMarginLoss(Loss):
    """Σ max(0, 1 - input[k] + input[j]) / C over the targets k and all j that are none."""

    function = F.multilabel_margin_loss


class MultiMarginLoss(WeightedLoss):
    """The mean over all other classes j of max(0, margin - input[target] + input[j])**p."""

    function = F.multi_margin_loss
    settings = (
        "p",
        "margin",
        "weight",
    )

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ):
        if p not in (1, 2):
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError(
                f"MultiMarginLoss: expected weight to be None or 1D tensor, got {weight.dim()}D instead"
            )
        super().__init__(weight, size_average, reduce, reduction, p=p, margin=margin)


class CTCLoss(Loss):
    """-log p(targets) for unaligned sequences of labels."""

    function = F.ctc_loss
    settings = ("blank", "zero_infinity")

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False):
        super().__init__(None, None, reduction, blank=blank, zero_infinity=zero_infinity)

    def forward(  # type: ignore[override]
        self, log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any
    ) -> Tensor:
        """See the class."""
        return self._of(log_probs, targets, input_lengths, target_lengths)
