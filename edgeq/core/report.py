"""Report: what was built, what was measured, and the verdict. Field names are those of `report.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from edgeq.core.artifact import FileEntry, TokenizerForm
from edgeq.core.details import Answer, LayerDivergence, MemorySample, TokenDivergence
from edgeq.core.frontier import Frontier
from edgeq.core.scheme import Codebook
from edgeq.errors import CorruptInputError

REPORT_SCHEMA = 1


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_VALIDATED = "not_validated"


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    source: str
    revision: str
    task: str
    architecture: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class RecipeSection:
    bits: int
    method: str
    group_size: int | None
    symmetric: bool
    embedding_bits: int
    accuracy_level: int
    codebook: Codebook | None = None


@dataclass(frozen=True, kw_only=True)
class WeightsSection:
    """`bytes` counts codes, scales, zero points, embeddings and what stayed float; `bits_per_weight` is over all
    parameters. `float_bytes` is the 16-bit model."""

    digest: str
    bits_per_weight: float
    bytes: int
    float_bytes: int


@dataclass(frozen=True, kw_only=True)
class ArtifactSection:
    bytes: int
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """peak_dirty_bytes: peak of anonymous + shared + swapped memory, what phones kill on and `limit_bytes` is for.

    The whole process held process_dirty_bytes, of which baseline_dirty_bytes before it opened the artifact. A baseline
    above what a runtime takes in an app is its Python interface's, and the part above is not in the peak. `survived` is
    False where the process was killed at the limit, or refused memory by it. `phases`: the peak within load, prefill,
    decode; `samples`: memory over time, thinned. Raises CorruptInputError where the three do not fit together.
    """

    peak_dirty_bytes: int
    process_dirty_bytes: int
    baseline_dirty_bytes: int
    peak_rss_bytes: int
    limit_bytes: int
    backend: str
    survived: bool
    phases: dict[str, int] = field(default_factory=dict)
    samples: tuple[MemorySample, ...] = ()

    def __post_init__(self) -> None:
        baseline, process = self.baseline_dirty_bytes, self.process_dirty_bytes
        if not (0 <= baseline <= process and process - baseline <= self.peak_dirty_bytes <= process):
            raise CorruptInputError(
                f"A peak of {self.peak_dirty_bytes} bytes does not follow from a process of {process} bytes with a "
                f"baseline of {baseline}.",
                remedy="Validate or export the bundle again.",
            )


@dataclass(frozen=True, kw_only=True)
class LanguageDrift:
    """Divergence of next-token distributions over `tokens` positions, in nats per token; perplexities of that text.
    relative_error: root of the squared differences' sum over that of the squared reference."""

    tokens: int
    kld_mean: float
    kld_p999: float
    kld_max: float
    top1_agreement: float
    perplexity: float
    perplexity_float: float
    perplexity_ratio: float
    max_abs: float
    relative_error: float

    @property
    def distance(self) -> float:
        """The one number that limits are about."""
        return self.kld_mean


@dataclass(frozen=True, kw_only=True)
class ClassDrift:
    """Divergence of class probabilities over `answers` inputs, tokens where each has a class, in nats; where there is
    one logit, of it being true or not. max_abs and relative_error compare logits."""

    answers: int
    kld_mean: float
    kld_max: float
    top1_agreement: float
    max_abs: float
    relative_error: float

    @property
    def distance(self) -> float:
        """The one number that limits are about."""
        return self.kld_mean


@dataclass(frozen=True, kw_only=True)
class OutputDrift:
    """Agreement of one of several outputs; as in EmbeddingDrift."""

    cosine_mean: float
    cosine_min: float
    relative_error: float
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class EmbeddingDrift:
    """Agreement of `sentences` embeddings, or as many images'; `rank_correlation` is Spearman's over all pairwise
    similarities. Of a plain module `sentences` are the answers that were compared, `outputs` its outputs, and the rest
    is the worst of those."""

    sentences: int
    cosine_mean: float
    cosine_min: float
    rank_correlation: float
    max_abs: float
    relative_error: float
    outputs: dict[str, OutputDrift] = field(default_factory=dict)

    @property
    def distance(self) -> float:
        """The one number that limits are about."""
        return 1.0 - self.cosine_mean


Drift = LanguageDrift | ClassDrift | EmbeddingDrift


@dataclass(frozen=True, kw_only=True)
class ArchitectureDrift:
    """What the kernels of one instruction set answer. cpu: the emulated one, "" for this machine's own.

    difference: the answers of this machine's own kernels against these; None for those themselves. All three are None
    where nothing ran; `reason` then says why. `verdict` is of these drifts alone. runtime: with versions, the
    emulator's too.
    """

    architecture: str
    cpu: str
    runtime: str
    verdict: Verdict
    reason: str
    lowering: Drift | None = None
    total: Drift | None = None
    difference: Drift | None = None


@dataclass(frozen=True, kw_only=True)
class DriftSection:
    """quantization: float model against dequantized weights, both in torch. lowering: dequantized weights against the
    artifact in its runtime. total: float model against the artifact. tokens: those of one text; answers: to the
    beginnings of some; both empty for encoders and where there is no tokenizer. architectures: where the device has
    another instruction set than this machine, this machine's first; what is judged is then the second one's, if it
    ran. layers: of the quantization; empty where the model's blocks are not one list."""

    quantization: Drift
    lowering: Drift
    total: Drift
    tokens: tuple[TokenDivergence, ...] = ()
    answers: tuple[Answer, ...] = ()
    architectures: tuple[ArchitectureDrift, ...] = ()
    layers: tuple[LayerDivergence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SpeedSection:
    """Seconds and tokens per second on this machine; `latency_ms` is one sentence through an encoder.
    first_token_seconds: from a prompt of 128 tokens, or half the context, to the first logits."""

    load_seconds: float
    first_token_seconds: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """`form` is "graph" where an app can pass text. Of `strings` hard ones, the graph read `equal` as the model's own
    tokenizer does. extensions: the version of ONNX Runtime Extensions. peak_dirty_bytes: of the run that reads text."""

    form: TokenizerForm = "files"
    strings: int = 0
    equal: int = 0
    extensions: str | None = None
    peak_dirty_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One criterion. `value` and `limit` are in the unit that the name ends with; `verdict` of this gate alone."""

    name: str
    value: float | str | None
    limit: float | str | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class BackendSection:
    """One of several ways in which the bundle was run: `dtype` names the variant, `execution_provider` what computed.

    `drift`, `memory` and `speed` are None where nothing ran. `is_required` is False where the verdict does without it.
    `facts`: the browser, its adapter, the operators that fell back, as the runtime tells them.
    """

    name: str
    dtype: str
    execution_provider: str
    threads: int
    is_required: bool
    verdict: Verdict
    reason: str
    memory: MemorySection | None
    drift: DriftSection | None
    speed: SpeedSection | None
    gates: tuple[Gate, ...]
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EnvironmentSection:
    runtime: str
    runtime_version: str
    platform: str
    python: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """`memory`, `drift` and `speed` are None where nothing ran; `reason` then says why. `planned_memory` are bytes by
    part as the artifact itself tells them: ExecuTorch's arena and delegates, an estimate for Core ML. `backends` has an
    entry for each way of running a bundle that has several; memory, drift, speed and gates are then the first one's.
    `frontier`: what the recipe was chosen from, None where no budget asked for it."""

    schema: int = REPORT_SCHEMA
    edgeq_version: str
    target: str
    format: str
    verdict: Verdict
    reason: str
    model: ModelSection
    recipe: RecipeSection
    weights: WeightsSection
    artifact: ArtifactSection
    memory: MemorySection | None
    drift: DriftSection | None
    speed: SpeedSection | None
    gates: tuple[Gate, ...]
    environment: EnvironmentSection
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    planned_memory: dict[str, int] = field(default_factory=dict)
    backends: tuple[BackendSection, ...] = ()
    frontier: Frontier | None = None
    notes: tuple[str, ...] = ()
