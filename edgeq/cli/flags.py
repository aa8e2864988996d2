"""The flags, one annotation each, so that verbs share the wording of what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from edgeq.cli.settings import as_architecture, as_installation
from edgeq.settings import as_effort, as_task, as_tokenizer_form
from edgeq.values import parse_bits, parse_size

Require = Annotated[bool, Option("--require", help="No verdict is exit code 3.")]
Model = Annotated[
    str | None,
    Argument(help="Directory or hub id. Default: the settings' model, else the embedded demo.", show_default=False),
]
Bundle = Annotated[Path, Argument(help="What `edgeq export` wrote.", show_default=False)]
Target = Annotated[str | None, Option(help="Device profile. Default: android.", metavar="NAME|FILE.toml")]
Bits = Annotated[
    Any,
    Option(
        parser=parse_bits,
        help="Bits of the linears' weights; auto: for each weight what the --max options leave room for. Default: 4.",
        metavar="2|3|4|8|16|auto",
    ),
]
RecipeFile = Annotated[
    Path | None,
    Option("--recipe", help="What `edgeq plan --output` wrote: schemes by weight.", metavar="FILE", dir_okay=False),
]
Method = Annotated[str | None, Option(help="How to quantize. Default: auto.", metavar="auto|NAME")]
GroupSize = Annotated[int | None, Option(help="Inputs that share a scale.", metavar="N")]
Symmetric = Annotated[bool | None, Option("--symmetric/--asymmetric", help="Without or with zero points.")]
Effort = Annotated[
    Any, Option(parser=as_effort, help="Time that quantizing may take. Default: default.", metavar="fast|default|best")
]
Calibration = Annotated[
    Path | None,
    Option(
        help="UTF-8 text or .jsonl to calibrate on. Default: what the model writes itself.",
        metavar="FILE",
        exists=True,
        dir_okay=False,
    ),
]
EmbeddingBits = Annotated[int | None, Option(help="Bits of embeddings and the head.", metavar="2|3|4|8|16")]
TaskName = Annotated[
    Any, Option("--task", parser=as_task, help="Where the checkpoint does not say it.", metavar="TASK")
]
AccuracyLevel = Annotated[
    int | None, Option(help="Activations: 1 float32, 4 int8. Default: the target's.", metavar="1|4")
]
FormatName = Annotated[str | None, Option("--format", help="Default: the target's first.", metavar="NAME|all")]
MaxMemory = Annotated[
    Any,
    Option(
        parser=parse_size, help="Gate, and budget of --bits auto: peak memory. Default: the target's.", metavar="SIZE"
    ),
]
MaxSize = Annotated[
    Any,
    Option(
        parser=parse_size, help="Gate, and budget of --bits auto: bundle size. Default: the target's.", metavar="SIZE"
    ),
]
MaxDrift = Annotated[
    float | None,
    Option(
        help="Gate, and budget of --bits auto: mean KL divergence in nats per token; encoders: 1 - mean cosine.",
        metavar="X",
    ),
]
Evaluation = Annotated[
    Path | None,
    Option(help="UTF-8 text to measure drift on. Default: built in.", metavar="FILE", exists=True, dir_okay=False),
]
TokenizerPlace = Annotated[
    Any,
    Option(
        "--tokenizer",
        parser=as_tokenizer_form,
        help="graph: in ONNX as well, so that an app passes text (ONNX only). Default: files.",
        metavar="files|graph",
    ),
]
MemoryLimit = Annotated[
    Any, Option(parser=parse_size, help="Run under this limit. Default: the target's.", metavar="SIZE")
]
Arch = Annotated[
    Any,
    Option(
        parser=as_architecture,
        help="Judge drift by these kernels, emulated where this machine has others. Default: the target's, where they "
        "can run.",
        metavar="x86_64|arm64",
    ),
]
AllCpus = Annotated[bool, Option("--all-cpus", help="Run on every arm64 CPU that the target names.")]
Bisect = Annotated[
    bool,
    Option("--bisect", help="Also find the smallest memory that the bundle runs in, to within 2 %: about ten runs."),
]
ContextMemory = Annotated[
    bool,
    Option(
        "--context-memory",
        help="Also measure memory by context length, split into weights, cache and scratch, and say how many tokens "
        "fit the limit: at least four runs.",
    ),
]
Output = Annotated[Path, Option(help="Directory to create.", metavar="DIR")]
OutputOrName = Annotated[
    Path | None,
    Option("--output", help="Directory to create. Default: ./MODEL-TARGET-BITSbit", metavar="DIR"),
]
NoValidate = Annotated[bool, Option("--no-validate", help="Do not run the bundle: no verdict.")]
Force = Annotated[bool, Option("--force", help="Replace an existing output.")]
InstallBrowser = Annotated[
    bool, Option("--install-browser", help="First fetch the npm packages that browser bundles are judged with.")
]
Install = Annotated[
    Any,
    Option(
        parser=as_installation,
        help="First fetch what runs arm64's kernels on x86-64 Linux (110 MB), or what --install-browser does.",
        metavar="arm64|browser",
    ),
]
Json = Annotated[bool, Option("--json", help="Print JSON, and nothing else, on stdout.")]
