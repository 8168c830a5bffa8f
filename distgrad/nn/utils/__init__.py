"""What training does with parameters besides steps: clipping, vectors of them, reparametrizations."""

from distgrad.nn.utils import parametrizations, parametrize, rnn, stateless
from distgrad.nn.utils.clipping import *
from distgrad.nn.utils.convert_parameters import *
from distgrad.nn.utils.skipping import skip_init
from distgrad.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from distgrad.nn.utils.weight_norm import remove_weight_norm, weight_norm
