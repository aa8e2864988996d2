"""House rules that no other tool checks."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq import errors
from tests.readme import README, REPOSITORY, with_current_tree

CODE = ("edgeq", "tests", "runtime_tests", "examples", "benchmarks")
MODULES = sorted(path for folder in CODE for path in (REPOSITORY / folder).rglob("*.py"))
PRODUCT = [path for path in MODULES if path.is_relative_to(REPOSITORY / "edgeq")]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
HEAVY = ("torch", "onnx", "onnxruntime", "transformers")
TEXT_SUFFIXES = {
    ".py",
    ".mjs",
    ".html",
    ".swift",
    ".entitlements",
    ".toml",
    ".md",
    ".txt",
    ".json",
    ".kt",
    ".kts",
    ".service",
    ".cfg",
    ".yml",
    "",
}
# Written in two halves, or this file would be the first to break the rule.
MACHINE_PATHS = tuple(
    first + second
    for first, second in (
        ("/wo", "rk/"),
        ("../sha", "red"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/tm", "p/w/"),
        ("/opt/", "wheels"),
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("npmjs", ".org"),
        ("deb.debian", ".org"),
    )
)

ERRORS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.EdgeqError)]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def at(path: Path, node: ast.expr | ast.stmt) -> str:
    return f"{name_of(path)}:{node.lineno}"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Functions of the module and methods of its classes whose whole name is public; none that are local to another."""
    for node in parse(path).body:
        body = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for member in body:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                yield member


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    every = ((path, node, (node.end_lineno or 0) - node.lineno + 1) for path in MODULES for node in functions(path))
    assert [f"{at(path, node)}: {lines} lines" for path, node, lines in every if lines > MAX_FUNCTION_LINES] == []


def test_every_module_says_what_it_is() -> None:
    markers = {
        path for path in MODULES if path.name == "__init__.py" and path not in PRODUCT and not path.stat().st_size
    }
    silent = [name_of(path) for path in MODULES if path not in markers and ast.get_docstring(parse(path)) is None]
    assert silent == []


def test_no_public_signature_swallows_keywords() -> None:
    """A typing mistake in a keyword must be an error. Private functions may be what a framework calls with keywords."""
    public = ((path, node) for path in PRODUCT for node in public_functions(path))
    assert [at(path, node) for path, node in public if node.args.kwarg] == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.__name__))
def test_every_error_has_a_remedy_and_an_exit_code(error: type[errors.EdgeqError]) -> None:
    assert error.__doc__
    assert error.exit_code in range(errors.EXIT_USAGE, errors.EXIT_INTERNAL + 1)
    remedy = inspect.signature(error).parameters["remedy"]
    assert remedy.kind is inspect.Parameter.KEYWORD_ONLY
    assert remedy.default is inspect.Parameter.empty
    assert str(error("What happened.", remedy="What to do.")) == "What happened. What to do."


def test_every_remedy_says_something() -> None:
    keywords = ((path, node) for path in PRODUCT for node in ast.walk(parse(path)) if isinstance(node, ast.keyword))
    constants = ((path, node.value) for path, node in keywords if node.arg == "remedy")
    empty = [
        at(path, node) for path, node in constants if isinstance(node, ast.Constant) and not str(node.value).strip()
    ]
    assert empty == []


@pytest.mark.parametrize(
    "arguments", [["-c", "import edgeq"], ["-m", "edgeq", "--help"], ["-m", "edgeq", "export", "--help"]]
)
def test_import_and_help_load_no_framework(arguments: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in finished.stderr.splitlines()}
    assert "edgeq" in imported
    assert imported.isdisjoint(HEAVY)


def test_public_names_are_functions_whatever_was_imported_before() -> None:
    """Three of them are also the names of packages, which the import system would put in their place."""
    program = (
        "import edgeq.lowering, edgeq.quantization, edgeq.validation.memory\n"
        "print([name for _ in range(2) for name in edgeq.__all__ if not callable(getattr(edgeq, name))])"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert finished.stdout == "[]\n"


def test_dependencies_point_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run([linter], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_readme_shows_the_current_tree() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_current_tree(text), "run `make format`"


def test_nothing_names_one_machine() -> None:
    folders = (*CODE, "targets", ".ci")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    files += [path for path in REPOSITORY.iterdir() if path.is_file()]
    found = []
    for path in files:
        if path.suffix not in TEXT_SUFFIXES or "__pycache__" in path.parts or path.name == "tokenizer.json":
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{name_of(path)}: {pattern}" for pattern in MACHINE_PATHS if pattern in text]
    assert found == []


FORMATS_OWN = (
    "lowering",
    "validation",
    "bundle",
    "targets",
    "runtimes/executorch.py",
    "runtimes/coreml",
    "runtimes/browser",
)


@pytest.mark.parametrize("format", ["executorch", "coreml", "transformersjs"])
def test_a_format_is_known_in_few_lines_elsewhere(format: str) -> None:
    package = REPOSITORY / "edgeq"
    others = [
        path for path in package.rglob("*.py") if not path.relative_to(package).as_posix().startswith(FORMATS_OWN)
    ]
    lines = [line for path in others for line in path.read_text(encoding="utf-8").splitlines() if format in line]
    assert 0 < len(lines) < 10


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"], "hatchling", "editables"]
    pinned = re.findall(
        r"^([\w.-]+)==[\w.]+$", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    names = {_normal(name) for name in pinned}
    assert [entry for entry in wanted if _normal(re.split(r"[<>=!~\[]", entry)[0]) not in names] == []


def test_the_wheel_brings_its_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = [path for path in (REPOSITORY / "edgeq").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {name_of(path) for path in data}
    expected |= {f"edgeq/targets/{path.name}" for path in (REPOSITORY / "targets").glob("*.toml")}
    assert expected <= names
    assert any(name.endswith("/LICENSE") for name in names)


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")
