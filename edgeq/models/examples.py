"""A plain torch module with example inputs: what is checked of them, and the cases that a bundle is judged on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeq.errors import UnsupportedModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

ExampleInputs = Sequence["torch.Tensor"] | Mapping[str, "torch.Tensor"]
"""Positional, or by the names of `forward`'s parameters."""
Tensors = tuple["torch.Tensor", ...]
PERTURBED = 6
NOISE = 0.1
"""Of an input's standard deviation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Inputs in the order of `names`; the first `positional` of them are passed by position."""

    names: tuple[str, ...]
    positional: int
    values: Tensors

    def call(self, module: nn.Module, values: Sequence[torch.Tensor]) -> Any:  # noqa: ANN401 - whatever it returns
        """The module's answer to other inputs of the same kind."""
        named = dict(zip(self.names[self.positional :], values[self.positional :], strict=True))
        return module(*values[: self.positional], **named)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The names of a module's outputs, and what it says to each case."""

    names: tuple[str, ...]
    cases: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]
    notes: tuple[str, ...]


def read_examples(module: nn.Module, inputs: ExampleInputs) -> Examples:
    """Raises UsageError for inputs that are no tensors on the CPU, or not what `forward` takes."""
    import torch

    if isinstance(inputs, torch.Tensor) or not isinstance(inputs, list | tuple | Mapping) or not inputs:
        raise UsageError(
            f"The example inputs are a {type(inputs).__name__}, not a tuple of tensors.",
            remedy="Give (x,) or (x, y) for positional inputs, or a dict of tensors by name.",
        )
    by_name = dict(inputs) if isinstance(inputs, Mapping) else {}
    by_place = () if by_name else tuple(inputs)
    try:
        bound = inspect.signature(module.forward).bind(*by_place, **by_name)
    except TypeError as error:
        raise UsageError(
            f"{type(module).__name__}.forward does not take the example inputs ({error}).",
            remedy="Give what forward takes, in its order or by its names.",
        ) from error
    names = tuple(_places(bound)) if by_place else tuple(by_name)
    values = by_place or tuple(by_name.values())
    for name, value in zip(names, values, strict=True):
        _check_input(name, value)
    return Examples(names=names, positional=len(by_place), values=tuple(value.detach() for value in values))


def _places(bound: inspect.BoundArguments) -> Iterator[str]:
    """The names of positional arguments; those of `*args` are counted."""
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            yield from (f"{name}_{index}" for index in range(len(value)))
        else:
            yield name


def _check_input(name: str, value: object) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"The example input {name!r} is a {type(value).__name__}, not a tensor.",
            remedy="Pass tensors only; a wrapper module can fix the other arguments.",
        )
    if value.device.type != "cpu":
        raise UsageError(f"The example input {name!r} is on {value.device}.", remedy="Move it: x.cpu().")


def check_module(module: nn.Module) -> None:
    """Raises UsageError, UnsupportedModelError for weights that are elsewhere, or not float32."""
    import torch

    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise UsageError(f"The weight {name!r} is on {tensor.device}.", remedy="Move the module: module.cpu().")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UnsupportedModelError(
                f"The weight {name!r} is {tensor.dtype}, and plain modules are exported from float32.",
                remedy="Convert the module and its example inputs: module.float().",
            )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, without gradients and without torch's fused transformer layers, which no trace
    can look into; each of its parts is then as it was."""
    import torch

    before = {part: part.training for part in module.modules()}
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
        for part, training in before.items():
            part.training = training


def flat_outputs(output: object) -> dict[str, torch.Tensor]:
    """A module's outputs by name: keys and fields, `output_0` and so on of a tuple, `output` of a tensor alone.

    Raises UnsupportedModelError for outputs that are no tensors.
    """
    import torch
    from torch.utils import _pytree

    leaves, _ = _pytree.tree_flatten_with_path(output)
    named = {}
    for path, value in leaves:
        parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
        name = "_".join(parts) if parts else "output"
        name = f"output_{name}" if name[0].isdigit() else name
        if not isinstance(value, torch.Tensor):
            raise UnsupportedModelError(
                f"The module's output {name!r} is a {type(value).__name__}, not a tensor.",
                remedy="Wrap the module in one that returns tensors only.",
            )
        while name in named:
            name += "_"
        named[name] = value
    if not named:
        raise UnsupportedModelError("The module returns nothing.", remedy="Return a tensor.")
    return named


def answers_to(module: nn.Module, examples: Examples, *, batch: bool) -> Answers:
    """What the module says to the example inputs, to perturbed ones, and with `batch` to other numbers of rows.

    Perturbed inputs that the module refuses, or answers with NaN or infinity, are left out, and a note says so. Raises
    UsageError where it does so to the example itself.
    """
    kept: list[Tensors] = []
    said: list[Tensors] = []
    names: tuple[str, ...] = ()
    refused = 0
    for values in (examples.values, *_perturbed(examples.values, batch=batch)):
        try:
            outputs = flat_outputs(examples.call(module, values))
        except UnsupportedModelError:
            raise
        except Exception as error:
            if not kept:
                raise UsageError(
                    f"The module fails on its example inputs ({str(error).strip()[:200]}).",
                    remedy="Give inputs that module(*example_inputs) takes.",
                ) from error
            refused += 1
            continue
        if not all(bool(value.isfinite().all()) for value in outputs.values()):
            if not kept:
                raise UsageError(
                    "The module answers its example inputs with NaN or infinity, which nothing can be compared with.",
                    remedy="Give inputs that it answers with numbers.",
                )
            refused += 1
            continue
        names = tuple(outputs)
        kept.append(values)
        said.append(tuple(outputs.values()))
    note = f"the module refused {refused} perturbed inputs: it was judged on {len(kept)}"
    return Answers(names=names, cases=tuple(kept), outputs=tuple(said), notes=(note,) if refused else ())


def _perturbed(values: Tensors, *, batch: bool) -> Iterator[Tensors]:
    """Always the same: floats with noise on top, integers and truths in another order along the last axis."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(PERTURBED):
        yield tuple(_other(value, generator) for value in values)
    if batch:
        rows = len(values[0])
        yield tuple(value[:1] if _has_rows(value, rows) else value for value in values)
        yield tuple(
            torch.cat([value, _other(value, generator)[:1]]) if _has_rows(value, rows) else value for value in values
        )


def batched_inputs(values: Tensors) -> tuple[bool, ...]:
    """Which inputs have the batch as their first axis: those that are as long as the first one."""
    return tuple(value.dim() > 0 and _has_rows(value, len(values[0])) if values[0].dim() else False for value in values)


def _has_rows(value: torch.Tensor, rows: int) -> bool:
    return value.dim() > 0 and len(value) == rows


def _other(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    if value.is_floating_point():
        spread = float(value.std()) if value.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return value + NOISE * (spread or 1.0) * noise
    if value.dim() == 0:
        return value
    return value.index_select(-1, torch.randperm(value.shape[-1], generator=generator))
