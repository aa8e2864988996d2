"""The README's generated block: the tree, each package in the words of its own docstring.

python -m tests.readme --write
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- tree: written by `make format` -->", "<!-- end of tree -->"
OTHERS = {
    "targets/": "device profiles, TOML only: every number with its source, date and confidence",
    "examples/": "short scripts to copy from",
    "tests/": "mirrors edgeq/: oracles, property tests, error paths; no network",
    "runtime_tests/": "bundles in their real runtimes, and mutants that must fail",
    "benchmarks/": "edgeq beside its peers on the same model",
    "action.yml, action/": "the GitHub Action, and a script for each of its steps",
    "docs/": "the pictures of this page",
    "Makefile": "`make` says what there is",
    "constraints.txt": "every version that the checks ran with",
}
WIDTH = 22


def tree() -> str:
    """The tree as a fenced block."""
    return "\n".join(
        ["```", "edgeq/", *_package_lines(), *(f"{name:<{WIDTH}}{text}" for name, text in OTHERS.items()), "```"]
    )


def with_current_tree(readme: str) -> str:
    """The README's text with its tree written anew."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{tree()}\n{END}{rest.split(END)[1]}"


def _package_lines() -> Iterator[str]:
    entries = sorted((REPOSITORY / "edgeq").iterdir(), key=lambda path: (path.is_dir(), path.name))
    for entry in entries:
        source = entry / "__init__.py" if entry.is_dir() else entry
        if source.suffix == ".py" and source.is_file() and entry.name not in ("__init__.py", "__main__.py"):
            name = f"{entry.name}/" if entry.is_dir() else entry.name
            yield f"  {name:<{WIDTH - 2}}{_first_line(source)}"


def _first_line(module: Path) -> str:
    documentation = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return documentation.split("\n")[0].removesuffix(".")


if __name__ == "__main__":
    current = with_current_tree(README.read_text(encoding="utf-8"))
    if "--write" in sys.argv:
        README.write_text(current, encoding="utf-8")
    else:
        print(current)
