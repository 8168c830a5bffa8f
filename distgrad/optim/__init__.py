"""Optimizers, as `torch.optim`."""

from distgrad.optim import lr_scheduler, swa_utils
from distgrad.optim.adam import Adam, AdamW
from distgrad.optim.adam_relatives import Adamax, NAdam, RAdam
from distgrad.optim.adaptive import Adadelta, Adagrad, RMSprop, Rprop
from distgrad.optim.asgd import ASGD
from distgrad.optim.lbfgs import LBFGS
from distgrad.optim.matrices import Adafactor, Muon, SparseAdam
from distgrad.optim.optimizer import Optimizer
from distgrad.optim.sgd import SGD
from distgrad.optim.swapping import swap_in_optimizer_params_and_state

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "lr_scheduler",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
]
