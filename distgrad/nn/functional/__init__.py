"""Activations, losses and layers as functions: `import distgrad.nn.functional as F`, as in torch."""

from distgrad.nn.functional.activation import *
from distgrad.nn.functional.adaptive_pooling import *
from distgrad.nn.functional.attention import *
from distgrad.nn.functional.attention_masks import *
from distgrad.nn.functional.conv import *
from distgrad.nn.functional.ctc import *
from distgrad.nn.functional.distance import *
from distgrad.nn.functional.dropping import *
from distgrad.nn.functional.fractional import *
from distgrad.nn.functional.grids import *
from distgrad.nn.functional.likelihood import *
from distgrad.nn.functional.loss import *
from distgrad.nn.functional.margin import *
from distgrad.nn.functional.normalization import *
from distgrad.nn.functional.padding import *
from distgrad.nn.functional.pooling import *
from distgrad.nn.functional.products import *
from distgrad.nn.functional.resampling import *
from distgrad.nn.functional.sparse import *
from distgrad.nn.functional.vision import *
