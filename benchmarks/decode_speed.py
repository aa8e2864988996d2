"""Decode and prefill beside onnxruntime-genai's model builder: both graphs in plain ONNX Runtime, same settings.

python -m benchmarks.decode_speed [--runs 5] [--cache .bench] [--options=FLAGS] [--edgeq MODEL.onnx] [--peer MODEL.onnx]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import peers
from benchmarks.measuring import Row, markdown_table

MEASUREMENTS = {
    "decode, growing cache": "decode_growing",
    "decode, shared cache": "decode_shared",
    "prefill of 32, last logits": "prefill_last",
    "prefill of 32, all logits": "prefill_all",
}


def build_artifacts(cache: Path, options: Sequence[str]) -> tuple[Path, Path]:
    """Both model files; edgeq's is exported anew, the builder's is kept in the cache."""
    model = peers.prepare_model(cache)
    ours, theirs = cache / "decode-edgeq", cache / "decode-builder"
    subprocess.run(peers.edgeq_command(model, ours, options), check=True, cwd=peers.REPOSITORY, capture_output=True)
    if not (theirs / "model.onnx").is_file():
        command = peers.builder_command(peers.prepare_builder(cache), model, theirs)
        subprocess.run(command, check=True, cwd=cache, capture_output=True)
    return ours / "model" / "model.onnx", theirs / "model.onnx"


def measure_once(model: Path, threads: int) -> dict[str, float | None]:
    """One fresh process, so that no session's waiting threads disturb the other's."""
    command = [sys.executable, "-m", "benchmarks.onnx_decoder", str(model), "--threads", str(threads)]
    finished = subprocess.run(command, check=True, cwd=peers.REPOSITORY, stdout=subprocess.PIPE, text=True)
    result: dict[str, float | None] = json.loads(finished.stdout)
    return result


def rows(ours: list[dict[str, float | None]], theirs: list[dict[str, float | None]]) -> list[Row]:
    """One row per measurement that both graphs allow."""
    found = []
    for name, key in MEASUREMENTS.items():
        edgeq = [value for run in ours if (value := run[key]) is not None]
        peer = [value for run in theirs if (value := run[key]) is not None]
        if len(edgeq) == len(peer) == len(ours):
            found.append(Row(name=name, unit="tok/s", edgeq=edgeq, peer=peer))
        else:
            print(f"{name}: left out, as one of the graphs does not compute the same tokens that way.", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="models and builder environment, kept")
    parser.add_argument("--edgeq", type=Path, help="measure this model file instead of exporting one")
    parser.add_argument("--peer", type=Path, help="compare with this model file instead of building one")
    parser.add_argument("--options", default="", help="flags to add to edgeq's, such as '--embedding-bits 4'")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    if arguments.edgeq and arguments.peer:
        edgeq, peer = arguments.edgeq.resolve(), arguments.peer.resolve()
    else:
        edgeq, peer = build_artifacts(cache, arguments.options.split())
    ours, theirs = [], []
    for _ in range(arguments.runs):
        ours.append(measure_once(edgeq, arguments.threads))
        theirs.append(measure_once(peer, arguments.threads))
    threads = f"{arguments.threads} threads"
    print(f"Tokens per second, {threads}, median of {arguments.runs} alternating processes; above 1 is better.\n")
    print(markdown_table(rows(ours, theirs), peer="model builder"))


if __name__ == "__main__":
    main()
