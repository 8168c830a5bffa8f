"""Strides, offsets and addresses are arithmetic: no array is read for them, however large the tensor would be."""

from __future__ import annotations

from types import ModuleType

import pytest

import distgrad
from distgrad.strided import Strided


@pytest.mark.sweep
def test_an_element_of_a_large_tensor(torch: ModuleType) -> None:
    if not torch.is_initialized():
        torch.init("inproc", workers=2, inline_bytes=0)
    y = torch.ones(1_000_000)
    y[999_999] = 3.0
    y[999_998] += 1
    y[999_997].zero_()
    assert y[-4:].tolist() == [1.0, 0.0, 2.0, 3.0]
    x = torch.zeros(1000, 1000)
    x[999, 998] = 4.0
    x[999, 999] += 5.0
    last = x[999, 998]
    assert (last.stride(), last.storage_offset(), last.view(1).stride()) == ((), 999_998, (1,))
    assert last.contiguous() is last
    assert last.reshape(1, 1)._base is x
    assert x[998:].sum(1).tolist() == [0.0, 9.0]


def test_layouts_of_what_would_fill_no_memory(torch: ModuleType) -> None:
    """Never computed: only asked for its layout."""
    x = torch.zeros(1_000_000_000)[-1].reshape(1)
    assert (x.shape, x.stride(), x.storage_offset()) == ((1,), (1,), 999_999_999)
    x = torch.zeros(1000, 1000, 1000)[7, 5:, 3]
    assert (x.shape, x.stride(), x.storage_offset()) == ((995,), (1000,), 7_005_003)


@pytest.mark.parametrize(
    ("view", "shape", "strides", "offset"),
    [
        (lambda x: x, (2, 3, 4), (12, 4, 1), 0),
        (lambda x: x[1], (3, 4), (4, 1), 12),
        (lambda x: x[:, 1:, ::2], (2, 2, 2), (12, 4, 2), 4),
        (lambda x: x.permute(2, 0, 1), (4, 2, 3), (1, 12, 4), 0),
        (lambda x: x.transpose(0, 2)[3], (3, 2), (4, 12), 3),
        (lambda x: x[:, 0], (2, 4), (12, 1), 0),
        (lambda x: x[:, 0].unsqueeze(0), (1, 2, 4), (24, 12, 1), 0),
        (lambda x: x[0, 0, 0], (), (), 0),
        (lambda x: x.view(6, 4)[::2].unsqueeze(-1), (3, 4, 1), (8, 1, 1), 0),
        (lambda x: x[:, :1].squeeze(1), (2, 4), (12, 1), 0),
        (lambda x: x.diagonal(1, 1, 2), (2, 3), (12, 5), 1),
        (lambda x: x.diagonal(-1, 1, 2), (2, 2), (12, 5), 4),
        (lambda x: x[:1].expand(5, 3, 4), (5, 3, 4), (0, 4, 1), 0),
        (lambda x: x[0, :, :1].expand(2, 3, 6)[:, 1:], (2, 2, 6), (0, 4, 0), 4),
        (lambda x: x.t() if x.dim() < 3 else x.unbind(1)[2], (2, 4), (12, 1), 8),
        (lambda x: x.split(2, 2)[1], (2, 3, 2), (12, 4, 1), 2),
        (lambda x: x[:, :, 1:1], (2, 3, 0), (12, 4, 1), 1),
        (lambda x: x.flatten()[5:].view(19, 1), (19, 1), (1, 1), 5),
    ],
)
def test_strides_and_offset(view: object, shape: object, strides: object, offset: int) -> None:
    x = distgrad.zeros(2, 3, 4)
    seen = view(x)  # type: ignore[operator]
    assert (tuple(seen.shape), seen.stride(), seen.storage_offset()) == (shape, strides, offset)
    assert seen.detach().stride() == strides
    if seen.numel():
        assert seen.data_ptr() - x.data_ptr() == 4 * offset


def test_what_is_contiguous() -> None:
    x = distgrad.zeros(4, 3)
    assert all(v.is_contiguous() for v in (x, x[1:], x[0], x[2:2].t(), x[:, :1].t()[:, :1], x[:1].t().t()))
    assert not any(v.is_contiguous() for v in (x.t(), x[:, 1:], x[::2], x[:1].expand(2, 3)))


def test_a_shape_without_strides() -> None:
    x = distgrad.zeros(4, 3)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.t().view(12)
    assert x.t().reshape(12)._base is None
    assert x[:, :2].view(4, 2, 1).stride() == (3, 1, 1)
    assert Strided((4, 2), (3, 1)).reshape((8,)) is None
    assert Strided((2, 3, 0), (3, 1, 1)).reshape((5, 0)) == Strided((5, 0), (1, 1))


def test_a_dimension_that_is_not_there() -> None:
    with pytest.raises(IndexError, match=r"expected to be in range of \[-2, 1\], but got 2"):
        distgrad.zeros(4, 3).stride(2)
    with pytest.raises(IndexError, match=r"expected to be in range of \[-1, 0\], but got 0"):
        distgrad.tensor(1.0).stride(0)
