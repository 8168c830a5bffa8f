"""Neural networks: modules, the functions without layers around them (`nn.functional`) and initial values."""

import sys

from distgrad.nn import containers as container
from distgrad.nn import dropping as dropout
from distgrad.nn import flattening as flatten
from distgrad.nn import functional, init, parameter, utils
from distgrad.nn import normalization as batchnorm
from distgrad.nn import normalization as instancenorm
from distgrad.nn.activation import *
from distgrad.nn.adaptive import *
from distgrad.nn.attention import *
from distgrad.nn.containers import *
from distgrad.nn.conv import *
from distgrad.nn.data_parallel import *
from distgrad.nn.distance import *
from distgrad.nn.dropping import *
from distgrad.nn.flattening import *
from distgrad.nn.fold import *
from distgrad.nn.lazy import *
from distgrad.nn.linear import *
from distgrad.nn.linear_cross_entropy import *
from distgrad.nn.loss import *
from distgrad.nn.margin_loss import *
from distgrad.nn.module import Module
from distgrad.nn.normalization import *
from distgrad.nn.padding import *
from distgrad.nn.parameter import *
from distgrad.nn.parameter_containers import *
from distgrad.nn.pooling import *
from distgrad.nn.rnn import *
from distgrad.nn.rnn_cells import *
from distgrad.nn.sparse import *
from distgrad.nn.sync_batchnorm import *
from distgrad.nn.transformer import *
from distgrad.nn.upsampling import *

modules = sys.modules[__name__]  # torch has its layers there too: `nn.modules.batchnorm.BatchNorm1d`
