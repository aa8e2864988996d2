"""The README's table of architectures: a random model of each goes through `edgeq.export`, validation included.

python -m runtime_tests.architectures [--only 'bert*'] [--write]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgeq import export
from edgeq.core.model import Task
from edgeq.errors import EdgeqError
from runtime_tests.families import ENCODERS, GPT, HEADS, LANGUAGE_MODELS, WINDOW, Family, Options, save_random
from tests.readme import README

BEGIN, END = (
    "<!-- architectures: written by `python -m runtime_tests.architectures --write` -->",
    "<!-- end of table -->",
)
HEADER = ("architecture", "task", "verdict", "lowering", "reason")
BITS, TARGET, METHOD = 4, "android", "mse"
ACCURACY_LEVEL = 1
"""Float32 activations: the lowering's drift is then the conversion's alone, under limits that are tight. No kernel
multiplies with 8 bits there, so that tables that are heads as well have 4."""


def row_name(model_type: str, task: str) -> str:
    """Names a row: transformers' type of model, and the task where that is not what the type is known for."""
    return model_type if task in ("text-generation", "feature-extraction") else f"{model_type} for {task}"


ARCHITECTURES: dict[str, Family] = {
    **{name: family for name, family in (LANGUAGE_MODELS | ENCODERS).items() if name == family.model_type},
    "gpt_neo": Family(
        model_type="gpt_neo",
        options={
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
    ),
    "olmo": Family(model_type="olmo"),
    "smollm3": Family(model_type="smollm3"),
    "persimmon": Family(model_type="persimmon"),
    "xglm": Family(model_type="xglm", options={"d_model": 64, "ffn_dim": 172, "num_layers": 2, "attention_heads": 4}),
    "exaone4": Family(model_type="exaone4", options=WINDOW),
    "olmo3": Family(model_type="olmo3", options=WINDOW),
    "seed_oss": Family(model_type="seed_oss", options=HEADS),
    "mixtral": Family(model_type="mixtral", options={"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": Family(
        model_type="qwen3_moe",
        options={**HEADS, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "gpt_oss": Family(model_type="gpt_oss", options={**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mamba": Family(model_type="mamba", options={"state_size": 8}),
    "openai-gpt": Family(model_type="openai-gpt", options=GPT),
    "camembert": Family(
        model_type="camembert",
        options={"pad_token_id": 1, "bos_token_id": 0},
        task="feature-extraction",
        pooling="mean",
    ),
    "deberta": Family(
        model_type="deberta",
        options={"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        task="feature-extraction",
        pooling="mean",
    ),
    "mobilebert": Family(
        model_type="mobilebert",
        options={"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        task="feature-extraction",
        pooling="mean",
    ),
    "t5": Family(
        model_type="t5",
        options={"d_model": 64, "d_kv": 16, "d_ff": 172, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
        task="feature-extraction",
        pooling="mean",
    ),
}

OPTIONS: dict[str, Options] = {
    "roberta": {"pad_token_id": 1, "bos_token_id": 0},
    "distilbert": {"dim": 64, "hidden_dim": 172, "n_layers": 2, "n_heads": 4},
    "electra": {"embedding_size": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deit": {"architectures": ["DeiTForImageClassification"]},
    "swin": {"embed_dim": 32, "depths": [1, 1], "num_attention_heads": [2, 4], "window_size": 4, "patch_size": 4},
    "swinv2": {"embed_dim": 32, "depths": [1, 1], "num_attention_heads": [2, 4], "window_size": 4, "patch_size": 4},
    "convnext": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "resnet": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic"},
}
OTHERS: dict[Task, tuple[str, ...]] = {
    "text-classification": ("bert", "roberta", "distilbert", "deberta-v2", "electra"),
    "token-classification": ("bert", "roberta", "distilbert"),
    "image-classification": (
        "vit",
        "deit",
        "beit",
        "swin",
        "swinv2",
        "convnext",
        "convnextv2",
        "mobilenet_v1",
        "mobilenet_v2",
        "resnet",
    ),
    "image-feature-extraction": ("vit", "dinov2", "convnext", "resnet"),
}
"""By task; a type of model more is one word here, and its sizes in OPTIONS where they have other names."""
ARCHITECTURES |= {
    row_name(model_type, task): Family(model_type=model_type, options=OPTIONS.get(model_type, {}), task=task)
    for task, model_types in OTHERS.items()
    for model_type in model_types
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one architecture. drift: relative error of the artifact's outputs, None where nothing ran."""

    architecture: str
    task: str
    verdict: str
    drift: float | None
    reason: str

    def cells(self) -> tuple[str, ...]:
        drift = "" if self.drift is None else f"{self.drift:.0e}"
        return (
            f"`{self.architecture.partition(' for ')[0]}`",
            self.task,
            self.verdict,
            drift,
            self.reason.replace("|", "\\|"),
        )


def measure(name: str, directory: Path) -> Row:
    """Make, export and validate the architecture in `directory`. An error of edgeq's is the row's reason."""
    family = ARCHITECTURES[name]
    source = save_random(family, directory / "source")
    try:
        report = export(
            source,
            target=TARGET,
            bits=BITS,
            method=METHOD,
            task=family.task,
            embedding_bits=BITS,
            accuracy_level=ACCURACY_LEVEL,
            output=directory / "bundle",
        )
    except EdgeqError as error:
        return Row(architecture=name, task=family.task, verdict="refused", drift=None, reason=error.what)
    drift = report.drift.lowering.relative_error if report.drift else None
    reason = report.reason.replace("\n", " ")
    return Row(architecture=name, task=family.task, verdict=str(report.verdict), drift=drift, reason=reason)


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Markdown: the rows by task and name."""
    ordered = sorted(rows, key=lambda cells: (cells[1], cells[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ("---",) * len(HEADER), *ordered))


def written_rows(readme: str) -> dict[str, tuple[str, ...]]:
    """The README's rows as cells, by architecture."""
    lines = readme.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    return {row_name(cells[0].strip("`"), cells[1]): cells for cells in rows}


def with_rows(readme: str, rows: Iterable[Row]) -> str:
    """The README's text with these rows written anew; others stay where their architecture is still listed."""
    cells = {name: old for name, old in written_rows(readme).items() if name in ARCHITECTURES}
    cells |= {row.architecture: row.cells() for row in rows}
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(cells.values())}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=["*"], nargs="*", help="patterns of names")
    parser.add_argument("--write", action="store_true", help="put the rows into the README")
    options = parser.parse_args()
    chosen = [name for name in ARCHITECTURES if any(fnmatchcase(name, pattern) for pattern in options.only)]
    for index, name in enumerate(chosen, start=1):
        with tempfile.TemporaryDirectory(prefix="edgeq-") as directory:
            row = measure(name, Path(directory))
        print(f"[{index}/{len(chosen)}]", *row.cells(), sep="  ", flush=True)
        if options.write:
            README.write_text(with_rows(README.read_text(encoding="utf-8"), [row]), encoding="utf-8")


if __name__ == "__main__":
    main()
