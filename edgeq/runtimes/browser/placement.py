"""What onnxruntime-web's verbose log says of which provider runs a node."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_HEADING = re.compile(r"placed on \[(\w+)\]\. Number of nodes: (\d+)")
_NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\w+) \(")
_WEBGPU = "WebGpuExecutionProvider"
_COPY = "Memcpy"
"""Begins the types of the nodes that the runtime adds where a value changes sides."""


def describe(lines: Sequence[str]) -> dict[str, str]:
    """Facts from the log's lines, empty for none: `webgpu_nodes` and `copy_nodes` as counts, and `fallback_nodes`, what
    runs on the CPU instead, as `"Neg x2, Range x1"` or `"none"`."""
    provider, total, on_webgpu, fallen = "", 0, Counter[str](), Counter[str]()
    for line in lines:
        if heading := _HEADING.search(line):
            provider = heading[1]
            if provider == _WEBGPU:
                total = int(heading[2])
        elif (node := _NODE.search(line)) and provider:
            (on_webgpu if provider == _WEBGPU else fallen)[node[1]] += 1
    if not provider:
        return {}
    copies = sum(count for kind, count in on_webgpu.items() if kind.startswith(_COPY))
    return {
        "webgpu_nodes": str(total - copies),
        "copy_nodes": str(copies),
        "fallback_nodes": ", ".join(f"{kind} x{count}" for kind, count in sorted(fallen.items())) or "none",
    }
