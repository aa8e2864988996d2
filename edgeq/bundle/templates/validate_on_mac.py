"""Finish this bundle's check on a Mac: `python3 validate_on_mac.py` runs it in Core ML. Needs coremltools and numpy.

Exit code: 0 passed, 1 failed, 3 where it could not be run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_RUN = 0, 1, 3
HERE = Path(__file__).resolve().parent
UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "neural_engine": "CPU_AND_NE"}


class Model:
    """The bundle's package in Core ML: `run(ids)` gives what its golden cases hold."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        import coremltools

        self.interface = manifest["interface"]
        self.units = getattr(coremltools.ComputeUnit, UNITS[manifest["profile"]["compute_unit"]])
        self.load = coremltools.models.MLModel
        self.path = str(HERE / manifest["model"])
        if self.interface["task"] == "text-generation":
            self.prefill = self.load(self.path, compute_units=self.units, function_name="prefill")
            self.decode = self.load(self.path, compute_units=self.units, function_name="decode")
            self.chunk = input_length(self.prefill, "prefill", 1)
        else:
            self.encoder = self.load(self.path, compute_units=self.units)

    def logits(self, ids: list[int]) -> Any:  # noqa: ANN401 - numpy comes with coremltools
        """Logits `[vocabulary]` after the last of `ids`."""
        import numpy as np

        state, position, logits = self.prefill.make_state(), 0, None
        while position < len(ids):
            count = min(len(ids) - position, self.chunk)
            # A chunk writes all of its positions: near the end of the cache, and for a single token, it does not fit.
            if count == 1 or position + self.chunk > self.interface["context_length"]:
                model, row, count = self.decode, [ids[position]], 1
                more = {}
            else:
                model, row = self.prefill, ids[position : position + count] + [0] * (self.chunk - count)
                more = {"last": np.array([count - 1], np.int32)}
            inputs = {"input_ids": np.array([row], np.int32), "position": np.array([position], np.int32), **more}
            logits = model.predict(inputs, state=state)["logits"]
            position += count
        return np.asarray(logits, np.float64).reshape(-1)

    def vector(self, ids: list[int]) -> Any:  # noqa: ANN401
        """The output of an encoder in a row, the padding cut off by whoever compares it."""
        import numpy as np

        length = input_length(self.encoder, None, len(ids))
        padding = [0] * (length - len(ids))
        rows = {
            "input_ids": ids + padding,
            "attention_mask": [1] * len(ids) + padding,
            "token_type_ids": [0] * length,
        }
        inputs = {name: np.array([rows[name]], np.int32) for name in self.interface["inputs"]}
        output = self.encoder.predict(inputs)[self.interface["outputs"][0]]
        return np.asarray(output, np.float64).reshape(-1)


def input_length(model: Any, function: str | None, count: int) -> int:  # noqa: ANN401
    """How long a row of `count` ids must be made for the model's input."""
    description = model.get_spec().description
    inputs = next((f.input for f in description.functions if f.name == function), description.input)
    array = next(value for value in inputs if value.name == "input_ids").type.multiArrayType
    if array.HasField("enumeratedShapes"):
        return int(min(shape.shape[1] for shape in array.enumeratedShapes.shapes if shape.shape[1] >= count))
    if array.HasField("shapeRange"):
        return max(count, int(array.shapeRange.sizeRanges[1].lowerBound))
    return int(array.shape[1])


def compare(model: Model, golden: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the outputs; nothing where all is well. Comparisons are written so that NaN is wrong too."""
    import numpy as np

    if not golden["cases"]:
        yield "there are no golden cases: the bundle was exported without validation"
    for index, case in enumerate(golden["cases"]):
        if golden["task"] == "text-generation":
            logits = model.logits(case["input_ids"])
            best = int(np.argmax(logits))
            worst = float(np.abs(logits[case["top_ids"]] - np.array(case["top_logits"])).max())
            what = "its logits are off by"
            if best not in case["top_ids"]:
                yield f"golden case {index}: token {best} is not among the best"
        else:
            expected = np.array(case["embedding"])
            vector = model.vector(case["input_ids"])[: len(expected)]
            worst = 1 - float(vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected))
            what = "1 - cosine is"
        print(f"golden case {index}: {what} {worst:.3g}, {golden['tolerance']:.3g} are allowed")
        if not worst <= golden["tolerance"]:
            yield f"golden case {index}: {what} {worst:.3g}"


def changed_files(manifest: dict[str, Any]) -> Iterator[str]:
    """The files that are not as `edgeq.json` lists them."""
    for entry in manifest["files"]:
        path = HERE / entry["path"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            yield f"{entry['path']} is missing or was changed"


def main() -> int:
    manifest = json.loads((HERE / "edgeq.json").read_text(encoding="utf-8"))
    if platform.system() != "Darwin":
        print("verdict: not validated. Core ML is only on macOS: run this on a Mac.")
        return NOT_RUN
    if importlib.util.find_spec("coremltools") is None:
        print("verdict: not validated. Install coremltools: python3 -m pip install coremltools numpy")
        return NOT_RUN
    complaints = list(changed_files(manifest))
    if not complaints:
        golden = json.loads((HERE / manifest["golden"]).read_text(encoding="utf-8"))
        complaints = list(compare(Model(manifest), golden))
    for complaint in complaints:
        print(complaint)
    if complaints:
        print("verdict: failed in Core ML")
        return FAILED
    print("golden cases: passed in Core ML")
    if importlib.util.find_spec("edgeq") is None:
        print("verdict: passed on the golden cases. Memory and drift were not judged: install edgeq for that.")
        return PASSED
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "edgeq", "validate", str(HERE), "--require"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
