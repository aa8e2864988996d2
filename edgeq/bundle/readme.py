"""The bundle's README.md: what this is, whether it may ship, and how to use it on its surface."""

from __future__ import annotations

from typing import assert_never

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.text import fill, size_text
from edgeq.core.report import Verdict

_VERDICTS = {
    Verdict.PASSED: "**passed**: it was run in its runtime under the device's memory limit, and compared "
    "with the original.",
    Verdict.FAILED: "**failed**: it was run, and at least one gate does not hold. Do not ship it.",
    Verdict.NOT_VALIDATED: "**not validated**: it was never run. `edgeq validate` runs it.",
}


def readme(manifest: Manifest) -> str:
    """Markdown. It holds no measurement: those are in report.md."""
    size = sum(entry.bytes for entry in manifest.files)
    return fill(
        "README.md",
        {
            "NAME": manifest.name,
            "TASK": manifest.interface.task,
            "TARGET": manifest.target,
            "DESCRIPTION": manifest.profile.description,
            "VERDICT": _VERDICTS[manifest.report.verdict],
            "RUNTIME": f"ONNX Runtime {manifest.runtime.version}",
            "SIZE": size_text(size),
            "DIGEST": manifest.weights_digest,
            "PREFIX": "" if manifest.root == "." else f"{manifest.root}/",
            "USE": _use(manifest),
            "VERSION": manifest.edgeq_version,
        },
    )


def _use(manifest: Manifest) -> str:
    match manifest.surface:
        case "android":
            return "Follow `android/README.md`: a folder for `assets/`, a Gradle snippet and two Kotlin files."
        case "edge":
            generator = manifest.interface.task == "text-generation"
            words = '"Once upon a time"' if generator else '"A cat sleeps." "A kitten naps."'
            return (
                "```sh\npython3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n"
                ".venv/bin/python run.py --check\n"
                f".venv/bin/python run.py {words}\n```\n\n"
                "`edgeq.service` runs it under systemd, within the memory that the target allows: see its first lines."
            )
    assert_never(manifest.surface)
