"""Functions of layers under the names, and with the arguments, that torch has for them at its top.

`torch.batch_norm` takes the weight before the statistics, losses a number for their reduction, dropout no default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.functional.dropping import _dropped
from distgrad.ops.base import Tensor

__all__ = [
    "alpha_dropout",
    "alpha_dropout_",
    "batch_norm",
    "bilinear",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "ctc_loss",
    "dropout",
    "dropout_",
    "feature_alpha_dropout",
    "feature_alpha_dropout_",
    "feature_dropout",
    "feature_dropout_",
    "group_norm",
    "hinge_embedding_loss",
    "instance_norm",
    "kl_div",
    "layer_norm",
    "margin_ranking_loss",
    "poisson_nll_loss",
    "rms_norm",
    "triplet_margin_loss",
]

Maybe = Tensor | None
REDUCTIONS = ("none", "mean", "sum")
bilinear = F.bilinear
rms_norm = F.rms_norm


def _named(reduction: int) -> str:
    if not 0 <= reduction < len(REDUCTIONS):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return REDUCTIONS[reduction]


# Normalisation.
def batch_norm(
    input: Tensor,
    weight: Maybe,
    bias: Maybe,
    running_mean: Maybe,
    running_var: Maybe,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """See `nn.functional.batch_norm`."""
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor,
    weight: Maybe,
    bias: Maybe,
    running_mean: Maybe,
    running_var: Maybe,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """See `nn.functional.instance_norm`."""
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Maybe = None,
    bias: Maybe = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """See `nn.functional.layer_norm`."""
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Maybe = None,
    bias: Maybe = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """See `nn.functional.group_norm`."""
    return F.group_norm(input, num_groups, weight, bias, eps)


# Dropout: with all arguments, and in place.
def _dropping(function: Callable[..., Tensor], name: str, inplace: bool) -> Callable[..., Tensor]:
    def call(input: Tensor, p: float, train: bool) -> Tensor:
        return function(input, p, train, inplace)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"See `nn.functional.{function.__name__}`."
    return call


dropout, dropout_ = (_dropping(F.dropout, f"dropout{end}", bool(end)) for end in ("", "_"))
alpha_dropout, alpha_dropout_ = (
    _dropping(F.alpha_dropout, f"alpha_dropout{end}", bool(end)) for end in ("", "_")
)
feature_alpha_dropout, feature_alpha_dropout_ = (
    _dropping(F.feature_alpha_dropout, f"feature_alpha_dropout{end}", bool(end)) for end in ("", "_")
)


def feature_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """Dropout of whole channels of (N, C, ...)."""
    return _dropped("feature_dropout", input, p, train, False, features=True)


def feature_dropout_(input: Tensor, p: float, train: bool) -> Tensor:
    """The same in place."""
    return _dropped("feature_dropout", input, p, train, True, features=True)


# Losses: 0 no reduction, 1 the mean, 2 the sum.
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Maybe = None, pos_weight: Maybe = None, reduction: int = 1
) -> Tensor:
    """See `nn.functional.binary_cross_entropy_with_logits`."""
    return F.binary_cross_entropy_with_logits(
        input, target, weight, reduction=_named(reduction), pos_weight=pos_weight
    )


def kl_div(input: Tensor, target: Tensor, reduction: int = 1, *, log_target: bool = False) -> Tensor:
    """See `nn.functional.kl_div`."""
    if reduction == 1:  # there "mean" warns that it is not the divergence's
        found = F.kl_div(input, target, reduction="none", log_target=log_target)
        return found.mean()
    return F.kl_div(input, target, reduction=_named(reduction), log_target=log_target)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: int = 1
) -> Tensor:
    """See `nn.functional.cosine_embedding_loss`."""
    return F.cosine_embedding_loss(input1, input2, target, margin, reduction=_named(reduction))


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, reduction: int = 1) -> Tensor:
    """See `nn.functional.hinge_embedding_loss`."""
    return F.hinge_embedding_loss(input, target, margin, reduction=_named(reduction))


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: int = 1
) -> Tensor:
    """See `nn.functional.margin_ranking_loss`."""
    return F.margin_ranking_loss(input1, input2, target, margin, reduction=_named(reduction))


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool, full: bool, eps: float, reduction: int
) -> Tensor:
    """See `nn.functional.poisson_nll_loss`."""
    return F.poisson_nll_loss(input, target, log_input, full, eps=eps, reduction=_named(reduction))


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: int = 1,
) -> Tensor:
    """See `nn.functional.triplet_margin_loss`."""
    return F.triplet_margin_loss(
        anchor, positive, negative, margin, p, eps, swap, reduction=_named(reduction)
    )


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> Tensor:
    """See `nn.functional.ctc_loss`."""
    return F.ctc_loss(
        log_probs, targets, input_lengths, target_lengths, blank, _named(reduction), zero_infinity
    )
