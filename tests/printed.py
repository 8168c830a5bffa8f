"""What notebooks print, looked at."""

import re
from typing import Any

import numpy as np
import pytest


class Printed:
    """What was printed since the last look, without addresses and outer blank lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def text(self) -> str:
        return re.sub(r"0x[0-9a-f]+", "0x", self.capsys.readouterr().out).strip("\n")

    def equals(self, expected: str) -> None:
        assert self.text() == expected.strip("\n")


def check_printed_numbers(text: str, tensor: Any, suffix: str) -> None:
    """`text` is the printed form of `tensor`, whatever numbers it holds: four digits behind the point."""
    assert text.startswith("tensor(")
    assert text.endswith(suffix)
    rows = text.removesuffix(suffix).count("\n") + 1
    assert rows == (tensor.shape[0] if tensor.ndim == 2 else 1)
    numbers = re.findall(r"-?\d+\.\d{4}(?:e[+-]\d\d)?", text)
    np.testing.assert_allclose(
        np.array(numbers, dtype=float).reshape(tuple(tensor.shape)),
        np.array(tensor.tolist()),
        rtol=1e-4,
        atol=1e-4,
    )


def equal(tensor: Any, expected: Any) -> None:
    """`tensor` holds exactly these numbers, as float32, and is no part of a graph."""
    expected = np.asarray(expected, dtype=np.float32)
    assert not tensor.requires_grad
    assert tensor.numpy().dtype == np.float32
    np.testing.assert_array_equal(tensor.numpy(), expected, strict=True)
