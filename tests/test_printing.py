"""The printed form of tensors, against text that torch 2.13 printed.

`GOLDEN` is what `repr` of a torch tensor gave for each expression, with the suffixes named after the values
and the print options in the `dict`. Every case runs twice: from the whole array, and from its corners alone.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distgrad.printing import edge_indices, format_array, get_printoptions, printoptions, set_printoptions

GOLDEN = """
>>> f32(1.5)
tensor(1.5000)
>>> f32(41)
tensor(41.)
>>> f32(np.nan)
tensor(nan)
>>> f64(0.1), "requires_grad=True"
tensor(0.1000, dtype=torch.float64, requires_grad=True)
>>> i64(7)
tensor(7)
>>> np.array(True)
tensor(True)
>>> f32([2, 3]), "requires_grad=True"
tensor([2., 3.], requires_grad=True)
>>> f32([-12, 65]), "grad_fn=<SubBackward0>"
tensor([-12.,  65.], grad_fn=<SubBackward0>)
>>> f32([[1, 2], [3, 4]]), "requires_grad=True"
tensor([[1., 2.],
        [3., 4.]], requires_grad=True)
>>> f32([[2.18294], [-0.09136], [0.71539]]), "grad_fn=<AddBackward0>"
tensor([[ 2.1829],
        [-0.0914],
        [ 0.7154]], grad_fn=<AddBackward0>)
>>> i64([1, -20, 300])
tensor([  1, -20, 300])
>>> i32([1, -20, 300])
tensor([  1, -20, 300], dtype=torch.int32)
>>> np.array([[1, 2], [3, 4]], dtype="uint8")
tensor([[1, 2],
        [3, 4]], dtype=torch.uint8)
>>> np.array([True, False])
tensor([ True, False])
>>> np.array([[True, True], [True, True]])
tensor([[True, True],
        [True, True]])
>>> f64([1.5, 2.25])
tensor([1.5000, 2.2500], dtype=torch.float64)
>>> np.array([1.5, 2.25], dtype="float16")
tensor([1.5000, 2.2500], dtype=torch.float16)
>>> f32([0, -0.0, 0])
tensor([0., -0., 0.])
>>> f32([1, np.nan, -np.inf])
tensor([1., nan, -inf])
>>> f32([1.5, np.nan, -np.inf, np.inf, 0, -0.0])
tensor([1.5000,    nan,   -inf,    inf, 0.0000, -0.0000])
>>> f32([np.nan, np.inf, -np.inf, 0])
tensor([nan, inf, -inf, 0.])
>>> f32([1e-4])
tensor([1.0000e-04])
>>> f32([9e-5])
tensor([9.0000e-05])
>>> f32([1e8, 1])
tensor([1.0000e+08, 1.0000e+00])
>>> f32([1e8 + 8])
tensor([1.0000e+08])
>>> f32([1, 1000])
tensor([   1., 1000.])
>>> f32([0.5, 500])
tensor([  0.5000, 500.0000])
>>> f32([0.5, 500.5])
tensor([5.0000e-01, 5.0050e+02])
>>> f32([-3.4e38, 1e-45, 0, np.nan])
tensor([-3.4000e+38,  1.4013e-45,  0.0000e+00,         nan])
>>> f64([1.7e308, -5e-324])
tensor([ 1.7000e+308, -4.9407e-324], dtype=torch.float64)
>>> f32([0.00012345, 0.1])
tensor([0.0001, 0.1000])
>>> f32([99999.99])
tensor([99999.9922])
>>> f32([1.00005, -1.00015])
tensor([ 1.0000, -1.0001])
>>> f32([])
tensor([])
>>> f32(np.zeros((0, 3)))
tensor([], size=(0, 3))
>>> i64([])
tensor([], dtype=torch.int64)
>>> np.zeros((2, 0), dtype=bool), "requires_grad=False"
tensor([], size=(2, 0), dtype=torch.bool, requires_grad=False)
>>> f64(np.zeros((3, 0, 2))), "requires_grad=True"
tensor([], size=(3, 0, 2), dtype=torch.float64, requires_grad=True)
>>> i64(np.arange(40))
tensor([ 0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16, 17,
        18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35,
        36, 37, 38, 39])
>>> f32(np.zeros(30))
tensor([0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.,
        0., 0., 0., 0., 0., 0.])
>>> f32(np.arange(24) / 8)
tensor([0.0000, 0.1250, 0.2500, 0.3750, 0.5000, 0.6250, 0.7500, 0.8750, 1.0000,
        1.1250, 1.2500, 1.3750, 1.5000, 1.6250, 1.7500, 1.8750, 2.0000, 2.1250,
        2.2500, 2.3750, 2.5000, 2.6250, 2.7500, 2.8750])
>>> f32(np.arange(30).reshape(2, 15) * 1e3 + 0.5)
tensor([[5.0000e-01, 1.0005e+03, 2.0005e+03, 3.0005e+03, 4.0005e+03, 5.0005e+03,
         6.0005e+03, 7.0005e+03, 8.0005e+03, 9.0005e+03, 1.0000e+04, 1.1000e+04,
         1.2000e+04, 1.3000e+04, 1.4000e+04],
        [1.5000e+04, 1.6000e+04, 1.7000e+04, 1.8000e+04, 1.9000e+04, 2.0000e+04,
         2.1000e+04, 2.2000e+04, 2.3000e+04, 2.4000e+04, 2.5000e+04, 2.6000e+04,
         2.7000e+04, 2.8000e+04, 2.9000e+04]])
>>> f32(np.arange(8).reshape(2, 2, 2))
tensor([[[0., 1.],
         [2., 3.]],

        [[4., 5.],
         [6., 7.]]])
>>> i64(np.arange(6).reshape(1, 2, 1, 3))
tensor([[[[0, 1, 2]],

         [[3, 4, 5]]]])
>>> f32(np.arange(12) * 1.5), "grad_fn=<ReshapeAliasBackward0>", "tangent=1"
tensor([ 0.0000,  1.5000,  3.0000,  4.5000,  6.0000,  7.5000,  9.0000, 10.5000,
        12.0000, 13.5000, 15.0000, 16.5000], grad_fn=<ReshapeAliasBackward0>,
       tangent=1)
>>> f64(np.arange(9) * 1.5 + 0.25), "requires_grad=True"
tensor([ 0.2500,  1.7500,  3.2500,  4.7500,  6.2500,  7.7500,  9.2500, 10.7500,
        12.2500], dtype=torch.float64, requires_grad=True)
>>> f64(np.arange(17)), "requires_grad=True"
tensor([ 0.,  1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12., 13.,
        14., 15., 16.], dtype=torch.float64, requires_grad=True)
>>> i64(np.arange(1000).reshape(2, 500)[:, :12])
tensor([[  0,   1,   2,   3,   4,   5,   6,   7,   8,   9,  10,  11],
        [500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 510, 511]])
>>> i64(np.arange(1001))
tensor([   0,    1,    2,  ...,  998,  999, 1000])
>>> f32(np.arange(1200) / 7), "requires_grad=True"
tensor([0.0000e+00, 1.4286e-01, 2.8571e-01,  ..., 1.7100e+02, 1.7114e+02,
        1.7129e+02], requires_grad=True)
>>> f32(np.arange(2000).reshape(40, 50)), "grad_fn=<MmBackward0>"
tensor([[0.0000e+00, 1.0000e+00, 2.0000e+00,  ..., 4.7000e+01, 4.8000e+01,
         4.9000e+01],
        [5.0000e+01, 5.1000e+01, 5.2000e+01,  ..., 9.7000e+01, 9.8000e+01,
         9.9000e+01],
        [1.0000e+02, 1.0100e+02, 1.0200e+02,  ..., 1.4700e+02, 1.4800e+02,
         1.4900e+02],
        ...,
        [1.8500e+03, 1.8510e+03, 1.8520e+03,  ..., 1.8970e+03, 1.8980e+03,
         1.8990e+03],
        [1.9000e+03, 1.9010e+03, 1.9020e+03,  ..., 1.9470e+03, 1.9480e+03,
         1.9490e+03],
        [1.9500e+03, 1.9510e+03, 1.9520e+03,  ..., 1.9970e+03, 1.9980e+03,
         1.9990e+03]], grad_fn=<MmBackward0>)
>>> f32(np.arange(2000).reshape(2, 1000) - 0.5)
tensor([[-5.0000e-01,  5.0000e-01,  1.5000e+00,  ...,  9.9650e+02,
          9.9750e+02,  9.9850e+02],
        [ 9.9950e+02,  1.0005e+03,  1.0015e+03,  ...,  1.9965e+03,
          1.9975e+03,  1.9985e+03]])
>>> i32(np.arange(1800).reshape(2, 9, 100))
tensor([[[   0,    1,    2,  ...,   97,   98,   99],
         [ 100,  101,  102,  ...,  197,  198,  199],
         [ 200,  201,  202,  ...,  297,  298,  299],
         ...,
         [ 600,  601,  602,  ...,  697,  698,  699],
         [ 700,  701,  702,  ...,  797,  798,  799],
         [ 800,  801,  802,  ...,  897,  898,  899]],

        [[ 900,  901,  902,  ...,  997,  998,  999],
         [1000, 1001, 1002,  ..., 1097, 1098, 1099],
         [1100, 1101, 1102,  ..., 1197, 1198, 1199],
         ...,
         [1500, 1501, 1502,  ..., 1597, 1598, 1599],
         [1600, 1601, 1602,  ..., 1697, 1698, 1699],
         [1700, 1701, 1702,  ..., 1797, 1798, 1799]]], dtype=torch.int32)
>>> f32(np.where(np.arange(1001) == 500, 1e-30, 1))
tensor([1., 1., 1.,  ..., 1., 1., 1.])
>>> f64(10.0 ** (np.arange(1001) % 300))
tensor([ 1.0000e+00,  1.0000e+01,  1.0000e+02,  ...,  1.0000e+98,
         1.0000e+99, 1.0000e+100], dtype=torch.float64)
>>> np.arange(1002).reshape(2, 501) % 2 == 0
tensor([[ True, False,  True,  ...,  True, False,  True],
        [False,  True, False,  ..., False,  True, False]])
>>> f32([1.12345]), dict(precision=2)
tensor([1.12])
>>> f32([1.5, 123456]), dict(precision=0)
tensor([2e+00, 1e+05])
>>> i64(np.arange(10)), dict(threshold=5)
tensor([0, 1, 2,  ..., 7, 8, 9])
>>> i64(np.arange(10)), dict(threshold=5, edgeitems=0)
tensor([...], size=(10,))
>>> f32(np.ones((3, 4))), dict(threshold=5, edgeitems=1)
tensor([[1.,  ..., 1.],
        ...,
        [1.,  ..., 1.]])
>>> f32(np.ones((3, 4))), dict(threshold=5, edgeitems=0)
tensor([...], size=(3, 4))
>>> f32(2), dict(threshold=0)
tensor(2.)
>>> i64(np.arange(9)), dict(linewidth=20)
tensor([0, 1, 2, 3,
        4, 5, 6, 7,
        8])
>>> f32([1.5, 2]), "requires_grad=True", dict(linewidth=10)
tensor([1.5000,
        2.0000],
       requires_grad=True)
>>> f32([1.5, 2]), dict(sci_mode=True)
tensor([1.5000e+00, 2.0000e+00])
>>> f32([1, 2]), dict(sci_mode=True)
tensor([1.0000e+00, 2.0000e+00])
>>> f32([0, np.nan]), dict(sci_mode=True)
tensor([0., nan])
>>> f32([1e-9, 1e9]), dict(sci_mode=False)
tensor([         0.0000, 1000000000.0000])
>>> f32(np.arange(1001)), dict(profile="short")
tensor([   0.,    1.,  ...,  999., 1000.])
>>> f64([1 / 3]), dict(profile="short", precision=10)
tensor([0.3333333333], dtype=torch.float64)
"""


def cases() -> list[Any]:
    """Each expression of `GOLDEN` with the text below it."""
    blocks = [block.split("\n", 1) for block in GOLDEN.strip().split(">>> ")[1:]]
    return [pytest.param(expression, text.rstrip("\n"), id=expression) for expression, text in blocks]


def read(expression: str) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """The array, the suffixes and the options that a case names."""
    array, *rest = eval(f"({expression},)", {"np": np, **MAKERS})
    suffixes = [item for item in rest if isinstance(item, str)]
    options = [item for item in rest if isinstance(item, dict)]
    return array, suffixes, options[0] if options else {}


MAKERS = {
    "f32": lambda values: np.asarray(values, "float32"),
    "f64": lambda values: np.asarray(values, "float64"),
    "i32": lambda values: np.asarray(values, "int32"),
    "i64": lambda values: np.asarray(values, "int64"),
}


def corners(array: np.ndarray) -> np.ndarray:
    edges = edge_indices(array.shape)
    return array if edges is None or array.ndim == 0 else array[np.ix_(*edges)]


@pytest.fixture(autouse=True)
def default_options() -> Iterator[None]:
    with printoptions(profile="default"):
        yield


@pytest.mark.parametrize(("expression", "text"), cases())
def test_prints_what_torch_prints(expression: str, text: str) -> None:
    array, suffixes, options = read(expression)
    with printoptions(**options):
        assert format_array(array, suffixes=suffixes) == text
        assert format_array(corners(array), suffixes=suffixes, shape=array.shape) == text


def test_edges_are_both_ends_of_the_long_dimensions() -> None:
    assert edge_indices((5, 300)) == [[0, 1, 2, 3, 4], [0, 1, 2, 297, 298, 299]]
    assert edge_indices((6, 7, 100)) == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5, 6], [0, 1, 2, 97, 98, 99]]


@pytest.mark.parametrize("shape", [(), (1000,), (10, 100), (0, 5000), (7, 0)])
def test_no_edges_where_the_whole_is_printed(shape: tuple[int, ...]) -> None:
    assert edge_indices(shape) is None


def test_a_tensor_larger_than_any_memory_prints_from_its_corners() -> None:
    shape = (2**40, 2**40)
    edges = edge_indices(shape)
    assert edges == [[0, 1, 2, 2**40 - 3, 2**40 - 2, 2**40 - 1]] * 2
    text = format_array(np.ones((6, 6), "float32"), shape=shape)
    assert text.count("1.,  ..., 1.") == 6
    assert text.count("\n        ...,\n") == 1


def test_full_profile_needs_the_whole() -> None:
    with printoptions(profile="full"):
        assert edge_indices((2000,)) is None
        assert "..." not in format_array(np.arange(2000))


@pytest.mark.parametrize(("held", "shape"), [((5,), (2000,)), ((3,), (4,)), ((6, 6), (2000,)), ((2,), ())])
def test_an_array_that_does_not_fit_is_refused(held: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"tensor of shape {shape}, but got shape {held}")):
        format_array(np.zeros(held), shape=shape)


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "U3", "object"])
def test_a_dtype_without_a_printed_form_is_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="cannot print an array of dtype"):
        format_array(np.zeros(2, dtype))


def test_options_are_set_together_and_sci_mode_by_every_call() -> None:
    set_printoptions(precision=2, threshold=9, edgeitems=1, linewidth=40, sci_mode=True)
    assert get_printoptions() == {
        "precision": 2,
        "threshold": 9,
        "edgeitems": 1,
        "linewidth": 40,
        "sci_mode": True,
    }
    set_printoptions(precision=3)
    assert get_printoptions()["sci_mode"] is None
    assert get_printoptions()["linewidth"] == 40
    set_printoptions(profile="short", edgeitems=5)
    assert (get_printoptions()["precision"], get_printoptions()["edgeitems"]) == (2, 5)


def test_options_come_back_after_an_error() -> None:
    before = get_printoptions()
    with pytest.raises(KeyError), printoptions(precision=1, sci_mode=True):
        raise KeyError
    assert get_printoptions() == before


SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=9)
FLOATS = arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32))
WHOLES = arrays.arrays(np.int64, SHAPES)


@given(array=FLOATS | WHOLES, threshold=st.integers(0, 50), edgeitems=st.integers(0, 4))
def test_corners_print_as_the_whole_does(array: np.ndarray, threshold: int, edgeitems: int) -> None:
    with printoptions(threshold=threshold, edgeitems=edgeitems):
        assert format_array(corners(array), shape=array.shape) == format_array(array)


@given(array=arrays.arrays(np.float64, SHAPES, elements=st.floats(-1e6, 1e6)))
def test_the_text_reads_back_as_the_values(array: np.ndarray) -> None:
    with printoptions(profile="full", precision=17, sci_mode=True):
        text = format_array(array)
    values, _, _ = text.removeprefix("tensor(").rpartition(",")
    np.testing.assert_array_equal(np.array(eval(values)), array)
