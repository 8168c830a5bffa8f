"""Sequential, ModuleList, ModuleDict, ParameterList and ParameterDict: what they do with their items, and print."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

import distgrad as torch
from distgrad import nn


def layers(n: int) -> list[Any]:
    return [nn.Linear(i + 1, 1) for i in range(n)]


def widths(container: Any) -> list[int]:
    return [layer.in_features for layer in container]


def test_a_sequence_is_called_in_order() -> None:
    net = nn.Sequential(OrderedDict(head=nn.Identity(), tail=nn.Flatten()))
    assert net(torch.ones(2, 3, 1)).shape == (2, 3)
    assert net.tail is net[-1]
    assert repr(net[1:]) == "Sequential(\n  (tail): Flatten(start_dim=1, end_dim=-1)\n)"


def test_a_sequence_is_a_list() -> None:
    net = nn.Sequential(*layers(4))
    del net[1]
    assert list(net._modules) == ["0", "1", "2"]
    assert widths(net) == [1, 3, 4]
    net.insert(1, nn.Linear(8, 1)).insert(-1, nn.Linear(9, 1))
    assert widths(net) == [1, 8, 3, 9, 4]
    assert widths(net + nn.Sequential(nn.Linear(5, 1))) == [1, 8, 3, 9, 4, 5]
    assert widths(net[1:3] * 2) == widths(2 * net[1:3]) == [8, 3, 8, 3]
    assert net.pop(0).in_features == 1
    net *= 2
    assert len(net) == 8
    assert net[0] is net[4]
    net += nn.Sequential(*layers(1))
    net[0] = nn.Linear(7, 1)
    assert widths(net)[0] == 7
    del net[1:]
    assert widths(net.extend(layers(2))) == [7, 1, 2]
    assert net.append(nn.Linear(6, 1)) is net


def test_a_list_of_modules() -> None:
    found = nn.ModuleList(layers(2))
    found += layers(1)
    found.insert(0, nn.Linear(9, 1))
    assert widths(found) == [9, 1, 2, 1]
    assert widths(found + layers(1)) == [9, 1, 2, 1, 1]
    assert widths(found[1:3]) == [1, 2]
    assert found.pop(-1).in_features == 1
    assert [name for name, _ in found.named_parameters()][:2] == ["0.weight", "0.bias"]
    assert repr(nn.ModuleList([nn.Identity(), nn.Identity(), nn.Flatten()])) == (
        "ModuleList(\n  (0-1): 2 x Identity()\n  (2): Flatten(start_dim=1, end_dim=-1)\n)"
    )
    assert repr(nn.ModuleList()) == "ModuleList()"


def test_a_dict_of_modules() -> None:
    found = nn.ModuleDict({"b": nn.Identity()})
    found["a"] = nn.Linear(1, 1)
    found.update([("c", nn.Identity())])
    assert list(found) == ["b", "a", "c"]
    assert "a" in found
    assert found.a is found["a"] is found.pop("a")
    assert repr(found) == "ModuleDict(\n  (b): Identity()\n  (c): Identity()\n)"
    found.clear()
    assert len(found) == 0


def test_a_list_of_parameters() -> None:
    found = nn.ParameterList([torch.ones(1)])
    found.append(torch.zeros(2, 3))
    found += [5]
    assert [type(item) for item in found] == [nn.Parameter, nn.Parameter, int]
    assert len(list(found.parameters())) == 2
    assert found[1:][1] == 5
    assert repr(found) == (
        "ParameterList(\n    (0): Parameter containing: [torch.float32 of size 1]\n"
        "    (1): Parameter containing: [torch.float32 of size 2x3]\n    (2): Object of type: int\n)"
    )
    found[0] = torch.ones(4)
    assert found[0].shape == (4,)


def test_a_dict_of_parameters() -> None:
    found = nn.ParameterDict({"b": torch.ones(1), "a": torch.ones(2)})
    assert list(found) == ["a", "b"]
    assert repr(found) == (
        "ParameterDict(\n    (a): Parameter containing: [torch.FloatTensor of size 2]\n"
        "    (b): Parameter containing: [torch.FloatTensor of size 1]\n)"
    )
    found["n"] = 3
    assert found.get("none", 4) == 4
    assert found.setdefault("n", 5) == 3
    assert found.popitem() == ("n", 3)
    assert list((found | {"k": 1}).keys()) == ["a", "b", "k"]
    found |= {"m": torch.ones(1)}
    assert list(reversed(found)) == ["m", "b", "a"]
    assert list(found.fromkeys(["u"], 1).items()) == [("u", 1)]
    del found["a"]
    assert "a" not in found
    assert [name for name, _ in found.named_parameters()] == ["b", "m"]
    found.clear()
    with pytest.raises(KeyError):
        found.popitem()


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: nn.Sequential(*layers(2))[2], IndexError, "index 2 is out of range"),
        (lambda: nn.Sequential().insert(1, nn.Identity()), IndexError, "Index out of range: 1"),
        (lambda: nn.Sequential() + 3, ValueError, "add operator supports only objects of Sequential class"),
        (lambda: nn.Sequential() * 0, ValueError, "Non-positive multiplication factor 0"),
        (lambda: nn.ModuleList().extend(3), TypeError, "should be called with an iterable, but got int"),
        (lambda: nn.ModuleList()(1), NotImplementedError, r"Module \[ModuleList\] is missing the required"),
        (lambda: nn.ModuleDict([("x",)]), ValueError, "element #0 has length 1; 2 is required"),
        (lambda: nn.ParameterList()(), RuntimeError, "ParameterList should not be called."),
        (lambda: nn.ParameterList().extend(torch.ones(2)), TypeError, "with an iterable, but got Tensor"),
        (lambda: nn.ParameterDict()[3], TypeError, "as it is not a string"),
    ],
)
def test_errors(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()
