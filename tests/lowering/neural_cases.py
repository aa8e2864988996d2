"""Cases of linears, embeddings, norms and matrix products: float, 16-bit and quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgeq.core.scheme import Scheme
from edgeq.lowering import operators
from tests.lowering.converting import Case, floats, integers

aten: Any = torch.ops.aten
SCHEMES = {
    "2 bits": Scheme(bits=2),
    "2 bits symmetric": Scheme(bits=2, symmetric=True),
    "3 bits": Scheme(bits=3),
    "3 bits symmetric": Scheme(bits=3, group_size=16, symmetric=True),
    "4 bits": Scheme(bits=4),
    "4 bits symmetric": Scheme(bits=4, symmetric=True),
    "8 bits": Scheme(bits=8, group_size=16),
    "8 bits symmetric per channel": Scheme(bits=8, group_size=None, symmetric=True),
    "16 bits": Scheme(bits=16),
}
X = floats("b", "s", 40)
IDS = integers("b", "s", low=0, high=24)


class Linears(nn.Module):
    """Four linears over one input, and one over their results; through edgeq's operator where `whole`."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.q, self.k = nn.Linear(40, 24), nn.Linear(40, 16)
        self.up, self.gate = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
        self.down = nn.Linear(24, 40)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._run(x, operators.linear if self.whole else functional.linear)

    def reference(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._run(x, functional.linear)

    def _run(self, x: torch.Tensor, linear: Any) -> tuple[torch.Tensor, ...]:  # noqa: ANN401
        q, k, up, gate = (linear(x, part.weight, part.bias) for part in (self.q, self.k, self.up, self.gate))
        return linear(up * gate + q, self.down.weight, self.down.bias), q, k


class OtherLinears(nn.Module):
    """A computed bias, a computed weight, and one weight that two linears share."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(40, 24), nn.Linear(40, 24), nn.Linear(40, 24, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        computed = functional.linear(x, self.a.weight, self.a.bias * 2)
        by_activations = functional.linear(x, x[0], x[0, :, 0])
        return computed, by_activations, self.c(x), self.c(x + 1), self.b(x)


class Products(nn.Module):
    """Conv1D's `addmm`, and a Linear's weight in every way to write its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bias = nn.Parameter(torch.empty(40, 24)), nn.Parameter(torch.empty(24))
        self.linear = nn.Linear(40, 24)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat, weight = x.view(-1, 40), self.linear.weight
        turned = (weight.t(), weight.T, weight.transpose(0, 1), weight.permute(1, 0))
        return (
            torch.addmm(self.bias, flat, self.conv),
            torch.addmm(self.bias, flat, weight.t(), beta=0.5, alpha=2),
            torch.addmm(flat[0, :24], flat, self.conv),
            flat @ self.conv,
            torch.mm(flat, self.conv),
            *(x @ w for w in turned),
        )


class FloatProducts(nn.Module):
    """Products with weights that no kernel takes whole, and of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.experts = nn.Parameter(torch.empty(8, 40)), nn.Parameter(torch.empty(3, 40, 4))
        self.vector = nn.Parameter(torch.empty(40))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second = self.matrix.chunk(2)
        scores = torch.bmm(x, x.transpose(1, 2))
        flat = x.reshape(-1, 40)
        return (
            self.matrix @ x.transpose(1, 2),
            x @ (first * second).t(),
            x @ self.matrix.to(torch.float32).t(),
            x[:, None] @ self.experts,
            x @ self.vector,
            scores,
            torch.mm(flat, flat.t()),
            torch.addmm(self.vector[:8], flat, self.matrix.t() + 1),
            torch.baddbmm(x[:, :1, :1], x, x.transpose(1, 2), beta=0.5, alpha=2),
            (self.matrix[:, :4] + 1).sum() + x,
        )


class TiedTable(nn.Module):
    """A table that is looked up twice and is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(24, 40)
        self.alone = nn.Embedding(24, 40, padding_idx=3)
        self.head = nn.Linear(40, 24, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.table(ids) + self.table(23 - ids) + self.alone(ids)
        return hidden, self.head(hidden)


class Norms(nn.Module):
    """Norms behind a residual and not, with what the residual goes on to."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.no_bias = nn.LayerNorm(40), nn.LayerNorm(40, bias=False, eps=1e-3)
        self.bare, self.two_axes = nn.LayerNorm(40, elementwise_affine=False), nn.LayerNorm((4, 10))
        self.weight, self.linear = nn.Parameter(torch.empty(40)), nn.Linear(40, 40)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._run(x, operators.rms_norm)

    def reference(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._run(x, lambda y, weight, eps: functional.rms_norm(y, (40,), weight, eps))

    def _run(self, x: torch.Tensor, rms_norm: Any) -> tuple[torch.Tensor, ...]:  # noqa: ANN401
        first = x * 2 + self.linear(x)
        second = self.plain(first) * 3 + first
        third = rms_norm(second, self.weight, 1e-5) + second
        fourth = self.no_bias(third + x[:, :1]) + rms_norm(third, self.weight + 1, 1e-6)
        return (
            fourth,
            first + second,
            self.bare(fourth),
            self.no_bias(torch.add(third.exp(), second.exp(), alpha=2)),
            self.two_axes(x.view(*x.shape[:2], 4, 10)),
            rms_norm(x[0], self.weight, 1e-6),
            functional.rms_norm(x, (40,)),
        )


SOFTMAX = (
    Case(
        name="softmax",
        operators=(aten.softmax.int, aten._softmax.default),
        module=lambda x: (x.softmax(-1), x.softmax(1), aten._softmax.default(x, -1, False)),
        inputs=(X,),
    ),
    Case(
        name="softmax in float32",
        operators=(aten.softmax.int,),
        module=lambda x: torch.softmax(x, -1, dtype=torch.float32),
        inputs=(integers("b", "s", 5),),
    ),
    Case(
        name="embedding of activations",
        operators=(aten.embedding.default,),
        module=lambda x, i: functional.embedding(i, x[0]),
        inputs=(floats("b", 24, 4), IDS),
    ),
)


def _usual(label: str, scheme: Scheme | None) -> tuple[Case, ...]:
    """What differs from scheme to scheme."""
    products = (aten.addmm.default, aten.matmul.default, aten.mm.default)
    return (
        Case(
            name=f"linears, {label}",
            operators=(operators.linear,),
            module=Linears(whole=True),
            inputs=(X,),
            schemes=_all(scheme, "q.weight", "k.weight", "up.weight", "gate.weight", "down.weight"),
        ),
        Case(
            name=f"products, {label}",
            operators=products,
            module=Products(),
            inputs=(X,),
            schemes=_all(scheme, "conv", "linear.weight"),
        ),
        Case(
            name=f"tables, {label}",
            operators=(aten.embedding.default,),
            module=TiedTable(),
            inputs=(IDS,),
            schemes=_all(scheme, "table.weight", "alone.weight"),
        ),
    )


def _rare(label: str, scheme: Scheme | None) -> tuple[Case, ...]:
    """What is the same for every scheme."""
    return (
        Case(
            name=f"torch's linears, {label}",
            operators=(aten.linear.default,),
            module=Linears(whole=False),
            inputs=(X,),
            schemes=_all(scheme, "q.weight", "k.weight", "up.weight", "gate.weight", "down.weight"),
        ),
        Case(
            name=f"other linears, {label}",
            operators=(aten.linear.default,),
            module=OtherLinears(),
            inputs=(X,),
            schemes=_all(scheme, "a.weight", "b.weight", "c.weight"),
        ),
        Case(
            name=f"norms, {label}",
            operators=(operators.rms_norm, aten.layer_norm.default),
            module=Norms(),
            inputs=(X,),
            schemes=_all(scheme, "linear.weight"),
        ),
    )


def _all(scheme: Scheme | None, *names: str) -> dict[str, Scheme]:
    return {} if scheme is None else dict.fromkeys(names, scheme)


CASES = (
    *_usual("float", None),
    *_rare("float", None),
    *(case for label, scheme in SCHEMES.items() for case in _usual(label, scheme)),
    *_rare("4 bits", SCHEMES["4 bits"]),
    Case(
        name="float products",
        operators=(aten.bmm.default, aten.baddbmm.default, aten.matmul.default, aten.mm.default, aten.addmm.default),
        module=FloatProducts(),
        inputs=(X,),
    ),
    *SOFTMAX,
)
