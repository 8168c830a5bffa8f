"""Recurrent layers, cells and packing against the recurrences in NumPy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

import distgrad
from distgrad import nn
from distgrad.nn.utils import rnn

Array = np.ndarray
RNG = np.random.default_rng(0)
T, N, WIDTH, H = 3, 4, 3, 2
X = RNG.normal(size=(N, T, WIDTH))
LENGTHS = [2, 3, 1, 3]


def step(kind: str, x: Array, h: Array, c: Array, w: list[Array]) -> tuple[Array, Array]:
    inner, state = w[0] @ x + w[2], w[1] @ h + w[3]
    if kind == "RNN":
        return np.tanh(inner + state), c
    if kind == "LSTM":
        i, f, g, o = np.split(inner + state, 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        return (w[4] @ h if len(w) > 4 else h), c
    (xr, xz, xn), (hr, hz, hn) = np.split(inner, 3), np.split(state, 3)
    r, z = expit(xr + hr), expit(xz + hz)
    return (1 - z) * np.tanh(xn + r * hn) + z * h, c


def run(layer: Any, kind: str, x: Array) -> tuple[Array, list[Array], list[Array]]:
    """Output (T, ...) and last h and c of each layer and direction, for one sequence (T, input)."""
    last: tuple[list[Array], list[Array]] = ([], [])
    directions = 1 + layer.bidirectional
    weights = [[p.detach().numpy() for p in ps] for ps in layer.all_weights]
    for first in range(0, len(weights), directions):
        outputs = []
        for backwards, w in enumerate(weights[first : first + directions]):
            h, c, made = np.zeros(w[1].shape[1]), np.zeros(layer.hidden_size), []
            for row in x[::-1] if backwards else x:
                h, c = step(kind, row, h, c, w)
                made.append(h)
            outputs.append(made[::-1] if backwards else made)
            last[0].append(h)
            last[1].append(c)
        x = np.concatenate(outputs, 1)
    return x, *last


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("RNN", {}),
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "two layers both ways": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "projected": ("LSTM", {"proj_size": 1}),
    "GRU both ways": ("GRU", {"bidirectional": True}),
}


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got.detach().numpy(), np.asarray(want), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_layers(anywhere: ModuleType, name: str) -> None:
    anywhere.manual_seed(0)
    kind, settings = CASES[name]
    layer = getattr(nn, kind)(WIDTH, H, batch_first=True, dtype=anywhere.float64, **settings)
    want = [run(layer, kind, x) for x in X]
    x = anywhere.tensor(X, requires_grad=True)
    out, last = layer(x)
    close(out, [w[0] for w in want])
    states = last if kind == "LSTM" else (last,)
    for i, s in enumerate(states):
        close(s, np.stack([w[1 + i] for w in want], 1))
    (out * out).sum().backward()
    assert all(p.grad is not None for p in (x, *layer.parameters()))
    direction = RNG.normal(size=X.shape)
    ends = [sum((run(layer, kind, row)[0] ** 2).sum() for row in X + s * direction) for s in (1e-6, -1e-6)]
    np.testing.assert_allclose((x.grad.numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_sequences_of_several_lengths(anywhere: ModuleType, kind: str) -> None:
    anywhere.manual_seed(0)
    layer = getattr(nn, kind)(WIDTH, H, bidirectional=True, dtype=anywhere.float64)
    packed = rnn.pack_padded_sequence(anywhere.tensor(X), LENGTHS, batch_first=True, enforce_sorted=False)
    out, last = layer(packed)
    assert isinstance(out, rnn.PackedSequence)
    padded, lengths = rnn.pad_packed_sequence(out, batch_first=True, padding_value=7.0)
    assert lengths.tolist() == LENGTHS
    want = [run(layer, kind, x[:n]) for x, n in zip(X, LENGTHS, strict=True)]
    for got, (rows, *_), n in zip(padded, want, LENGTHS, strict=True):
        close(got[:n], rows)
        assert (got[n:].detach().numpy() == 7).all()
    for s, i in zip(last if kind == "LSTM" else (last,), (1, 2), strict=False):
        close(s, np.stack([w[i] for w in want], 1))


def test_states_that_are_given_and_single_sequences(anywhere: ModuleType) -> None:
    layer = nn.LSTM(WIDTH, H, dtype=anywhere.float64)
    x = anywhere.tensor(X.transpose(1, 0, 2))
    whole, (_, c) = layer(x)
    first, state = layer(x[:2])
    second, again = layer(x[2:], state)
    close(first, whole[:2].detach().numpy())
    close(second, whole[2:].detach().numpy())
    close(again[1], c.detach().numpy())
    single, (h0, c0) = layer(x[:, 1])
    close(single, whole[:, 1].detach().numpy())
    assert (h0.shape, c0.shape) == ((1, H), (1, H))
    close(layer(x[2:, 1], (state[0][:, 1], state[1][:, 1]))[0], whole[2:, 1].detach().numpy())


def test_cells_are_steps(anywhere: ModuleType) -> None:
    for kind in ("RNN", "LSTM", "GRU"):
        layer = getattr(nn, kind)(WIDTH, H, dtype=anywhere.float64)
        cell = getattr(nn, f"{kind}Cell")(WIDTH, H, dtype=anywhere.float64)
        cell.load_state_dict({name[:-3]: p for name, p in layer.state_dict().items()})
        x = anywhere.tensor(X[:, 0])
        state = cell(x)
        close(state[0] if kind == "LSTM" else state, layer(x.unsqueeze(0))[0][0].detach().numpy())
        twice = cell(x, state)
        close(twice[0] if kind == "LSTM" else twice, layer(anywhere.stack([x, x]))[0][1].detach().numpy())
        one = cell(x[0])
        assert (one[0] if kind == "LSTM" else one).shape == (H,)
    relu = nn.RNNCell(WIDTH, H, nonlinearity="relu")
    assert repr(relu) == "RNNCell(3, 2, nonlinearity=relu)"
    assert (relu(anywhere.ones(1, WIDTH)).detach().numpy() >= 0).all()


def test_second_derivative(anywhere: ModuleType) -> None:
    layer = nn.GRU(1, 1, dtype=anywhere.float64)
    x = anywhere.tensor([[0.3], [-0.4]], dtype=anywhere.float64, requires_grad=True)
    (g,) = anywhere.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    (h,) = anywhere.autograd.grad(g.sum(), x)
    ends = []
    for s in (1e-5, -1e-5):
        moved = (x + s).detach().requires_grad_()
        ends.append(anywhere.autograd.grad(layer(moved)[0].sum(), moved)[0].numpy())
    np.testing.assert_allclose(h.numpy().sum(), (ends[0] - ends[1]).sum() / 2e-5, rtol=1e-6)


def test_padding_and_packing(anywhere: ModuleType) -> None:
    sequences = [anywhere.arange(float(n)) + 10 * n for n in (3, 1, 2)]
    assert rnn.pad_sequence(sequences, batch_first=True, padding_value=-1.0).tolist() == [
        [30, 31, 32],
        [10, -1, -1],
        [20, 21, -1],
    ]
    left = rnn.pad_sequence(sequences, padding_side="left")
    assert left.tolist() == [[30, 0, 0], [31, 0, 20], [32, 10, 21]]
    packed = rnn.pack_sequence(sequences, enforce_sorted=False)
    assert packed.data.tolist() == [30, 20, 10, 31, 21, 32]
    assert [x.tolist() for x in packed[1:]] == [[3, 2, 1], [0, 2, 1], [0, 2, 1]]
    padded, lengths = rnn.pad_packed_sequence(packed, total_length=4)
    assert padded.shape == (4, 3)
    assert lengths.tolist() == [3, 1, 2]
    assert [x.tolist() for x in rnn.unpack_sequence(packed)] == [x.tolist() for x in sequences]
    assert packed.double().data.dtype is anywhere.float64
    with pytest.raises(RuntimeError, match="must be sorted in decreasing order"):
        rnn.pack_sequence(sequences[::-1])
    with pytest.raises(ValueError, match="Expected total_length to be at least"):
        rnn.pad_packed_sequence(packed, total_length=2)
    with pytest.raises(RuntimeError, match="Length of all samples has to be greater than 0"):
        rnn.pack_padded_sequence(anywhere.ones(2, 2), [1, 0])


def test_printed_forms_and_state_dicts() -> None:
    layer = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2, batch_first=True, dropout=0.5, bias=False)
    assert repr(layer) == (
        "LSTM(3, 4, proj_size=2, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True)"
    )
    names = [f"weight_{k}_l{n}{way}" for n in (0, 1) for way in ("", "_reverse") for k in ("ih", "hh", "hr")]
    assert list(layer.state_dict()) == names
    assert layer.weight_ih_l1.shape == (16, 4)
    small = nn.GRU(1, 16)
    assert small.weight_hh_l0.abs().max() <= 0.25
    drops = nn.RNN(2, 30, 2, dropout=0.99)
    assert (drops(distgrad.ones(1, 1, 2))[0] != drops.eval()(distgrad.ones(1, 1, 2))[0]).any()


LAYER = nn.LSTM(3, 2)
MESSAGES: dict[str, Any] = {
    r"input.size\(-1\) must be equal to input_size. Expected 3, got 4": lambda: LAYER(distgrad.ones(1, 1, 4)),
    "LSTM: Expected input to be 2D or 3D, got 1D instead": lambda: LAYER(distgrad.ones(3)),
    r"Expected hidden\[0\] size \(1, 1, 2\), got \[1, 1, 3\]": lambda: LAYER(
        distgrad.ones(1, 1, 3), (distgrad.ones(1, 1, 3),) * 2
    ),
    r"hx and cx should also be 3-D but got \(2-D, 2-D\) tensors": lambda: LAYER(
        distgrad.ones(1, 1, 3), (distgrad.ones(1, 2),) * 2
    ),
    r"RNN input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)": lambda: LAYER(
        distgrad.ones(1, 1, 3).double()
    ),
    "Unknown nonlinearity 'x'. Select from 'tanh' or 'relu'": lambda: nn.RNN(1, 1, nonlinearity="x"),
    "proj_size argument is only supported for LSTM": lambda: nn.GRU(1, 1, proj_size=1),
    "proj_size has to be smaller than hidden_size": lambda: nn.LSTM(1, 1, proj_size=1),
    "hidden_size must be greater than zero": lambda: nn.LSTM(1, 0),
    "dropout should be a number in range": lambda: nn.LSTM(1, 1, dropout=2),
    "GRUCell: Expected input to be 1D or 2D, got 3D instead": lambda: nn.GRUCell(1, 1)(
        distgrad.ones(1, 1, 1)
    ),
    "input has inconsistent input_size: got 2 expected 1": lambda: nn.GRUCell(1, 1)(distgrad.ones(1, 2)),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        MESSAGES[message]()


def test_dropout_of_one_layer_warns() -> None:
    with pytest.warns(
        UserWarning, match="dropout option adds dropout after all but last recurrent layer"
    ) as caught:
        nn.GRU(1, 1, dropout=0.5)
    assert caught[0].filename == __file__


def test_gates_that_are_nearly_shut_keep_their_digits() -> None:
    """A sigmoid by way of tanh was 0 in float32 below exp(-17)."""
    cell = nn.LSTMCell(1, 1)
    with distgrad.no_grad():
        for p in cell.parameters():
            p.zero_()
        cell.bias_ih.copy_(distgrad.tensor([-30.0, -20.0, 0.0, -20.0]))
    h, c = cell(distgrad.zeros(1), (distgrad.zeros(1), distgrad.ones(1)))
    np.testing.assert_allclose(c.item(), expit(-20.0), rtol=1e-5)
    np.testing.assert_allclose(h.item(), expit(-20.0) * np.tanh(expit(-20.0)), rtol=1e-5)
    (of_bias,) = distgrad.autograd.grad(h.log().sum(), [cell.bias_ih])
    np.testing.assert_allclose(of_bias[3].item(), 1, rtol=1e-5)
    gru = nn.GRUCell(1, 1)
    with distgrad.no_grad():
        for p in gru.parameters():
            p.zero_()
        gru.bias_ih.copy_(distgrad.tensor([0.0, -20.0, 0.0]))
    np.testing.assert_allclose(gru(distgrad.zeros(1), distgrad.ones(1)).item(), expit(-20.0), rtol=1e-5)
