"""Run this bundle's module: `python run.py --check`, or `python run.py INPUTS.npz OUTPUTS.npz`, arrays by their names.

Needs requirements.txt alone: numpy, onnxruntime.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

HERE = Path(__file__).resolve().parent


class Bundle:
    """The module in this directory, opened in ONNX Runtime."""

    def __init__(self, threads: int | None = None) -> None:
        self.manifest = json.loads((HERE / "edgeq.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        wanted = threads or self.manifest["runtime"]["threads"]
        options.intra_op_num_threads = min(wanted, os.cpu_count() or 1)
        # As the bundle was validated: no memory plan per shape, no second copy of packed weights in the arena.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self.session = onnxruntime.InferenceSession(
            str(HERE / self.manifest["model"]), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [value.name for value in self.session.get_outputs()]

    def run(self, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Arrays by input name to arrays by output name."""
        return dict(zip(self.outputs, self.session.run(None, inputs), strict=True))


def array(tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """A tensor of golden.json."""
    return np.array(tensor["values"], dtype=tensor["dtype"]).reshape(tensor["shape"])


def check(bundle: Bundle) -> list[str]:
    """What is wrong with the files or with what this machine computes from them; empty where all is well."""
    manifest = bundle.manifest
    complaints = []
    for entry in [*manifest["files"], *manifest["report"]["files"]]:
        path = HERE / entry["path"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            complaints.append(f"{entry['path']} is missing or was changed")
    golden = json.loads((HERE / manifest["golden"]).read_text(encoding="utf-8"))
    if not golden["cases"]:
        complaints.append("there are no golden cases to compare with: see README.md")
    for number, case in enumerate(golden["cases"]):
        answers = bundle.run({name: array(tensor) for name, tensor in case["inputs"].items()})
        for name, tensor in case["outputs"].items():
            expected, answer = array(tensor).astype(float), answers[name].astype(float)
            off = float(np.linalg.norm(answer - expected)) / max(float(np.linalg.norm(expected)), 1e-30)
            if not off <= golden["tolerance"]:  # written so that NaN complains too
                complaints.append(
                    f"golden case {number}: {name} is off by {off:.4g}, {golden['tolerance']:.4g} allowed"
                )
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inputs", nargs="?", help="an .npz with an array for each input")
    parser.add_argument("outputs", nargs="?", help="where the .npz with the outputs goes")
    parser.add_argument("--threads", type=int, help="default: the profile's, at most the machine's cores")
    parser.add_argument("--check", action="store_true", help="verify the files and the golden outputs")
    options = parser.parse_args()
    if not options.check and options.outputs is None:
        parser.error("give --check, or two files")
    bundle = Bundle(options.threads)
    if options.check:
        complaints = check(bundle)
        print("\n".join(complaints) or "all is well")
        sys.exit(1 if complaints else 0)
    with np.load(options.inputs, allow_pickle=False) as inputs:
        outputs: dict[str, Any] = bundle.run(dict(inputs))
        np.savez(options.outputs, **outputs)


if __name__ == "__main__":
    main()
