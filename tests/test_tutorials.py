"""Programs of well-known tutorials, in few steps: the losses are those that torch prints."""

# ruff: noqa: E741

import math
import string
import unicodedata
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def fill(torch: Any, module: Any, seed: int = 0, scale: float | None = None) -> Any:
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in module.parameters():
            s = scale or 1 / math.sqrt(max(p.shape[-1], 1) if p.dim() > 1 else 10)
            p.copy_(torch.from_numpy((s * rng.standard_normal(tuple(p.shape))).astype(np.float32)))
    return module


def normal(torch: Any, *shape: int, seed: int = 1) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def autograd_blitz(torch: Any) -> Any:
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    Q = 3 * a**3 - b**2
    external_grad = torch.tensor([1.0, 1.0])
    Q.backward(gradient=external_grad)
    assert (9 * a**2 == a.grad).all()
    assert bool((-2 * b == b.grad).all())
    out = a.grad.tolist() + b.grad.tolist()
    x = torch.ones(5)
    y = torch.zeros(3)
    w = normal(torch, 5, 3).requires_grad_(True)
    b = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        b.copy_(torch.tensor([0.1, 0.2, 0.3]))
    z = torch.matmul(x, w) + b
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y)
    loss.backward()
    out += w.grad.flatten().tolist() + b.grad.tolist()
    return out


def legendre(torch: Any) -> Any:
    x = torch.linspace(-math.pi, math.pi, 40)
    y = torch.sin(x)

    class LegendrePolynomial3(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input):
            ctx.save_for_backward(input)
            return 0.5 * (5 * input**3 - 3 * input)

        @staticmethod
        def backward(ctx, grad_output):
            (input,) = ctx.saved_tensors
            return grad_output * 1.5 * (5 * input**2 - 1)

    a, b, c, d = (torch.full((), v, requires_grad=True) for v in (0.0, -1.0, 0.0, 0.3))
    out = []
    for _ in range(4):
        P3 = LegendrePolynomial3.apply
        y_pred = a + b * P3(c + d * x)
        loss = (y_pred - y).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            for p in (a, b, c, d):
                p -= 1e-4 * p.grad
                p.grad = None
        out.append(loss.item())
    return [*out, b.item(), d.item()]


def char_rnn(torch: Any) -> Any:
    nn = torch.nn
    all_letters = string.ascii_letters + " .,;'"
    n_letters = len(all_letters)

    def unicodeToAscii(s):
        return "".join(
            c for c in unicodedata.normalize("NFD", s) if unicodedata.category(c) != "Mn" and c in all_letters
        )

    def lineToTensor(line):
        tensor = torch.zeros(len(line), 1, n_letters)
        for li, letter in enumerate(line):
            tensor[li][0][all_letters.find(letter)] = 1
        return tensor

    data = [("Ślusàrski", 0), ("Tanaka", 1), ("Novák", 0), ("Sato", 1)]

    class RNN(nn.Module):
        def __init__(self, i, h, o):
            super().__init__()
            self.hidden_size = h
            self.i2h = nn.Linear(i + h, h)
            self.h2o = nn.Linear(h, o)
            self.softmax = nn.LogSoftmax(dim=1)

        def forward(self, input, hidden):
            combined = torch.cat((input, hidden), 1)
            hidden = torch.tanh(self.i2h(combined))
            return self.softmax(self.h2o(hidden)), hidden

        def initHidden(self):
            return torch.zeros(1, self.hidden_size)

    rnn = fill(torch, RNN(n_letters, 16, 2))
    criterion = nn.NLLLoss()
    out = []
    for it in range(1):
        line, cat = data[it % 4]
        lt = lineToTensor(unicodeToAscii(line))
        ct = torch.tensor([cat], dtype=torch.long)
        hidden = rnn.initHidden()
        rnn.zero_grad()
        for i in range(lt.size()[0]):
            output, hidden = rnn(lt[i], hidden)
        loss = criterion(output, ct)
        loss.backward()
        for p in rnn.parameters():
            p.data.add_(p.grad.data, alpha=-0.05)
        _top_n, top_i = output.topk(1)
        out += [loss.item(), top_i[0].item()]
    return out


def vae(torch: Any) -> Any:
    nn, F = torch.nn, torch.nn.functional
    rng = np.random.default_rng(3)

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(20, 16)
            self.fc21 = nn.Linear(16, 3)
            self.fc22 = nn.Linear(16, 3)
            self.fc3 = nn.Linear(3, 16)
            self.fc4 = nn.Linear(16, 20)

        def encode(self, x):
            h1 = F.relu(self.fc1(x))
            return self.fc21(h1), self.fc22(h1)

        def reparameterize(self, mu, logvar):
            std = torch.exp(0.5 * logvar)
            eps = torch.from_numpy(rng.standard_normal(tuple(std.shape)).astype(np.float32))
            return mu + eps * std

        def decode(self, z):
            return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

        def forward(self, x):
            mu, logvar = self.encode(x.view(-1, 20))
            z = self.reparameterize(mu, logvar)
            return self.decode(z), mu, logvar

    def loss_function(recon_x, x, mu, logvar):
        BCE = F.binary_cross_entropy(recon_x, x.view(-1, 20), reduction="sum")
        KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return BCE + KLD

    m = fill(torch, VAE())
    opt = torch.optim.Adam(m.parameters(), lr=1e-2)
    x = torch.from_numpy(np.random.default_rng(0).random((12, 1, 4, 5)).astype(np.float32))
    out = []
    for _e in range(1):
        opt.zero_grad()
        r, mu, lv = m(x)
        l = loss_function(r, x, mu, lv)
        l.backward()
        out.append(l.item())
        opt.step()
    D = torch.distributions
    q = D.Normal(mu, (0.5 * lv).exp())
    p = D.Normal(torch.zeros_like(mu), torch.ones_like(lv))
    out.append(D.kl_divergence(q, p).sum().item())
    return out


def reinforce(torch: Any) -> Any:
    nn, F = torch.nn, torch.nn.functional
    Categorical = torch.distributions.Categorical

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.affine1 = nn.Linear(4, 16)
            self.dropout = nn.Dropout(p=0.0)
            self.affine2 = nn.Linear(16, 2)
            self.saved_log_probs, self.rewards = [], []

        def forward(self, x):
            return F.softmax(self.affine2(F.relu(self.dropout(self.affine1(x)))), dim=1)

    policy = fill(torch, Policy())
    opt = torch.optim.Adam(policy.parameters(), lr=1e-2)
    eps = np.finfo(np.float32).eps.item()
    rng = np.random.default_rng(0)
    out = []
    for _ep in range(1):
        state = rng.uniform(-0.05, 0.05, 4)
        for _t in range(3):
            st = torch.from_numpy(state).float().unsqueeze(0)
            probs = policy(st)
            m = Categorical(probs)
            m.sample()
            action = torch.tensor([int(rng.random() < 0.5)])
            policy.saved_log_probs.append(m.log_prob(action))
            a = action.item()
            state = state + 0.1 * np.array([state[1], a - 0.5, state[3], 0.5 - a])
            policy.rewards.append(1.0 - abs(state[0]) - abs(state[3]))
        R = 0
        returns = []
        for r in policy.rewards[::-1]:
            R = r + 0.99 * R
            returns.insert(0, R)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + eps)
        pl = [-lp * R for lp, R in zip(policy.saved_log_probs, returns, strict=True)]
        opt.zero_grad()
        l = torch.cat(pl).sum()
        l.backward()
        opt.step()
        del policy.rewards[:]
        del policy.saved_log_probs[:]
        out += [l.item(), m.entropy().item()]
    return out


def pinn(torch: Any) -> Any:
    nn = torch.nn
    net = fill(
        torch, nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    )
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    out = []
    tb = torch.tensor(0.0).view(-1, 1).requires_grad_(True)
    tp = torch.linspace(0, 1, 30).view(-1, 1).requires_grad_(True)
    d, w0 = 2, 5
    mu, k = 2 * d, w0**2
    for _i in range(1):
        opt.zero_grad()
        u = net(tb)
        l1 = (torch.squeeze(u) - 1) ** 2
        du = torch.autograd.grad(u, tb, torch.ones_like(u), create_graph=True)[0]
        l2 = (torch.squeeze(du) - 0) ** 2
        u = net(tp)
        du = torch.autograd.grad(u, tp, torch.ones_like(u), create_graph=True)[0]
        d2 = torch.autograd.grad(du, tp, torch.ones_like(du), create_graph=True)[0]
        l3 = torch.mean((d2 + mu * du + k * u) ** 2)
        l = l1 + 1e-1 * l2 + 1e-4 * l3
        l.backward()
        opt.step()
        out += [l.item(), l3.item()]
    return out


def flow(torch: Any) -> Any:
    nn, D = torch.nn, torch.distributions
    TR = D.transforms
    rng = np.random.default_rng(0)
    x = torch.from_numpy((np.exp(rng.standard_normal((40, 2)) * 0.3) + 1).astype(np.float32))
    loc = nn.Parameter(torch.zeros(2))
    ls = nn.Parameter(torch.zeros(2))
    opt = torch.optim.Adam([loc, ls], lr=0.05)
    out = []
    for _i in range(3):
        base = D.Independent(D.Normal(torch.zeros(2), torch.ones(2)), 1)
        d = D.TransformedDistribution(base, [TR.AffineTransform(loc, ls.exp()), TR.ExpTransform()])
        l = -d.log_prob(x).mean()
        opt.zero_grad()
        l.backward()
        opt.step()
        out.append(l.item())
    return out


def maml(torch: Any) -> Any:
    nn, F = torch.nn, torch.nn.functional
    vmap, grad, functional_call = torch.func.vmap, torch.func.grad, torch.func.functional_call
    net = fill(torch, nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1)))
    rng = np.random.default_rng(0)
    params = dict(net.named_parameters())
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    out = []

    def inner(params, x1, y1, x2, y2):
        def lossf(p, x, y):
            return F.mse_loss(functional_call(net, p, (x,)), y)

        g = grad(lossf)(params, x1, y1)
        new = {k: params[k] - 0.1 * g[k] for k in params}
        return lossf(new, x2, y2)

    for _it in range(2):
        A = rng.uniform(0.1, 5, (4, 1, 1))
        ph = rng.uniform(0, np.pi, (4, 1, 1))
        x = rng.uniform(-5, 5, (4, 10, 1))
        y = A * np.sin(x + ph)
        x, y = (torch.from_numpy(v.astype(np.float32)) for v in (x, y))
        ls = vmap(inner, in_dims=(None, 0, 0, 0, 0))(params, x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])
        l = ls.mean()
        opt.zero_grad()
        l.backward()
        opt.step()
        out.append(l.item())
    _, pull = torch.func.vjp(torch.sin, normal(torch, 3))
    out += pull(torch.ones(3))[0].tolist()
    return out


LOSSES = {
    autograd_blitz: [
        36.0,
        81.0,
        -12.0,
        -8.0,
        0.0458082,
        0.304931,
        0.272821,
        0.0458082,
        0.304931,
        0.272821,
        0.0458082,
        0.304931,
        0.272821,
        0.0458082,
        0.304931,
        0.272821,
        0.0458082,
        0.304931,
        0.272821,
        0.0458082,
        0.304931,
        0.272821,
    ],
    legendre: [9.48386, 7.56766, 6.83735, 6.47762, -1.00312, 0.264061],
    char_rnn: [0.621608, 0.0],
    vae: [198.108, 5.27453],
    reinforce: [-0.0167073, 0.691457],
    pinn: [1.6023, 33.9376],
    flow: [3.82378, 3.70383, 3.57971],
    maml: [1.57338, 3.60765, 0.940878, 0.681037, 0.945901],
}


@pytest.mark.parametrize("torch", ["driver", "inproc"], indirect=True)
@pytest.mark.parametrize("program", LOSSES, ids=lambda program: program.__name__)
def test_a_tutorial_has_the_losses_of_torch(torch: ModuleType, program: Any) -> None:
    np.testing.assert_allclose(program(torch), LOSSES[program], rtol=1e-4, atol=1e-5)
