"""The quantizers that are compared, each with the settings that it is known for at these bits."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality_job import Option

GROUP_SIZE = 32
EDGEQ = "edgeq"
TORCH = ("torch==2.13.0", "transformers", "safetensors")
REQUIREMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "hqq": (("hqq==0.2.8", "accelerate", *TORCH),),
    "autoround": (("auto-round==0.16.1", *TORCH),),
    "gptqmodel": (
        ("torch==2.13.0", "setuptools", "wheel"),
        ("--no-build-isolation", "gptqmodel==7.5.0", "requests", *TORCH),
    ),
    "llamacpp": (("-C", "cmake.define.LLAVA_BUILD=OFF", "llama-cpp-python==0.3.36"), ("gguf==0.19.0", *TORCH)),
}
"""By peer: what pip installs, one call after the other; all on edgeq's own torch, so that seconds compare. GPTQModel's
next release asks for a later one; this one imports requests without saying so."""
TITLES = {"hqq": "HQQ", "autoround": "AutoRound", "gptqmodel": "GPTQModel", "llamacpp": "llama.cpp", EDGEQ: EDGEQ}
LLAMACPP_TYPES = {
    2: ("Q2_K", "IQ2_S"),
    3: ("Q3_K", "IQ3_S"),
    4: ("Q4_0", "Q4_1", "Q4_K", "IQ4_NL"),
    8: ("Q8_0",),
}
AUTOROUND_ITERATIONS, AUTOROUND_BATCH = 200, 8
GPTQMODEL_NORM = 2.4
"""The norm of its search for scales."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row. `variant` tells the rows of a tool with the same bits apart; equal ones make a line of the plot."""

    tool: str
    variant: str
    bits: int
    options: dict[str, Option]

    @property
    def name(self) -> str:
        return f"{TITLES[self.tool]} {self.variant}"

    @property
    def slug(self) -> str:
        words = f"{self.tool} {self.variant} {self.bits}bit".lower()
        return "".join(letter if letter.isalnum() else "-" for letter in words)


def peer_candidates(bits: int) -> list[Candidate]:
    """Every peer's rows for these bits."""
    found = []

    def add(tool: str, variant: str, **options: Option) -> None:
        found.append(Candidate(tool=tool, variant=variant, bits=bits, options=options))

    for group_size in (GROUP_SIZE, 2 * GROUP_SIZE):
        add("hqq", f"g{group_size}", group_size=group_size)
    for variant, symmetric, extension in (("asym", False, False), ("sym", True, False), ("asym ext", False, True)):
        add(
            "autoround",
            f"g{GROUP_SIZE} {variant}",
            group_size=GROUP_SIZE,
            symmetric=symmetric,
            extension=extension,
            iterations=AUTOROUND_ITERATIONS,
            batch=AUTOROUND_BATCH,
        )
    for variant, act_order, norm in (
        ("default", False, 0.0),
        ("act-order static", True, 0.0),
        ("act-order static mse", True, GPTQMODEL_NORM),
    ):
        add("gptqmodel", f"g{GROUP_SIZE} {variant}", group_size=GROUP_SIZE, act_order=act_order, mse=norm)
    for name in LLAMACPP_TYPES[bits]:
        add("llamacpp", f"{name} imatrix", type=name)
    return found


def edgeq_candidates(bits: int, methods: Sequence[str]) -> list[Candidate]:
    """edgeq's rows: METHOD, METHOD:EFFORT, either with `/sym` behind it for a grid without zero points."""
    found = []
    for method in methods:
        asked, _, grid = method.partition("/")
        name, _, effort = asked.partition(":")
        options: dict[str, Option] = {
            "method": name,
            "effort": effort or None,
            "group_size": GROUP_SIZE,
            "symmetric": grid == "sym",
        }
        variant = " ".join(filter(None, (name, effort, grid)))
        found.append(Candidate(tool=EDGEQ, variant=variant, bits=bits, options=options))
    return found


def prepare_environment(tool: str, cache: Path) -> Path:
    """The Python that has the tool, installed from the package index at the first call; edgeq's is this one."""
    if tool == EDGEQ:
        return Path(sys.executable)
    environment = cache / f"{tool}-venv"
    python, done = environment / "bin" / "python", environment / "installed"
    wanted = "\n".join(" ".join(packages) for packages in REQUIREMENTS[tool])
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        venv.create(environment, with_pip=True, clear=True)
        for packages in REQUIREMENTS[tool]:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python


def identity(candidate: Candidate) -> dict[str, object]:
    """What a cached result must have been made from."""
    packages = [package for call in REQUIREMENTS.get(candidate.tool, ()) for package in call]
    return {**asdict(candidate), "versions": [package for package in packages if "==" in package]}
