"""Export a model from Python and read the report.

python examples/export_model.py [MODEL] [OUTPUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import edgeq


def main(model: str | None, output: Path) -> None:
    report = edgeq.export(model, target="android", bits=4, output=output, force=True)
    print(f"{report.model.architecture}: {report.verdict}")
    print(f"{report.weights.float_bytes / 1e6:.1f} MB became {report.weights.bytes / 1e6:.1f} MB")
    for gate in report.gates:
        print(f"  {gate.name}: {gate.value} (limit {gate.limit}) {gate.verdict}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None, Path(sys.argv[2] if len(sys.argv) > 2 else "demo-bundle"))
