"""TargetProfile: what a device allows, each number with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["onnx", "executorch", "coreml", "transformersjs"]
Surface = Literal["android", "edge", "ios", "browser"]
ComputeUnit = Literal["cpu", "gpu", "neural_engine"]
ExecutionProvider = Literal["wasm", "webgpu"]
Architecture = Literal["x86_64", "arm64"]
Cpu = Literal["cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "cortex-a710"]
"""Of arm64: a53 and a72 lack dot products of int8, a55 and a76 have them, a710 also multiplies matrices of int8."""
Confidence = Literal["published", "measured", "estimated"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a number comes from. `source_date` is ISO 8601."""

    source: str
    source_date: str
    confidence: Confidence


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """One device class.

    memory_limit_mib: what the system lets the app's process hold in dirty memory (anonymous + shared + swap).
    memory_reserve_mib: what the app itself needs beside the model.
    bundle_limit_mib: the largest bundle that the surface delivers, or None where nothing limits it.
    accuracy_level: MatMulNBits' computation type: 1 float32 activations, 4 int8 activations.
    compute_unit: what the model is meant to run on; only Core ML's forms depend on it.
    execution_providers: what computes in a browser, the preferred first; empty elsewhere.
    file_limit_mib, buffer_limit_mib: the largest file that a browser fetches, the largest tensor that it takes whole.
    increased_memory_limit: the limit holds with iOS' entitlement of that name, which the app must declare.
    validate_arch: the device's instruction set, whose kernels are judged where this machine can run them.
    validate_cpus: its CPUs of that instruction set, the first for every validation; empty without validate_arch.
    provenance: one entry per limit, keyed by field name.
    """

    name: str
    description: str
    surface: Surface
    formats: tuple[Format, ...]
    memory_limit_mib: int
    memory_reserve_mib: int
    bundle_limit_mib: int | None
    threads: int
    context_length: int
    accuracy_level: int
    compute_unit: ComputeUnit = "cpu"
    execution_providers: tuple[ExecutionProvider, ...] = ()
    file_limit_mib: int | None = None
    buffer_limit_mib: int | None = None
    increased_memory_limit: bool = False
    validate_arch: Architecture | None = None
    validate_cpus: tuple[Cpu, ...] = ()
    provenance: dict[str, Provenance]

    @property
    def memory_budget_bytes(self) -> int:
        """What is left for the model's own process memory."""
        return (self.memory_limit_mib - self.memory_reserve_mib) * 2**20
