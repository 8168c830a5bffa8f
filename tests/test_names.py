"""What floats are made of, windows, and other names of torch's: what torch prints for small programs."""

from __future__ import annotations

from types import ModuleType

import golden_cases
import pytest


@pytest.mark.parametrize("case", golden_cases.cases("names"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed
