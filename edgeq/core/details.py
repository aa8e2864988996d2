"""Details: what is shown beside figures and judged by nothing. Each part is empty where nobody recorded it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WeightGroup:
    """Weights of one purpose. bytes: codes, scales and zero points, as one model of the bundle holds them; schemes:
    tensors by label. The last group of a model, `rest`, has no tensors: float weights and the graph itself."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    schemes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    """Dirty memory that counts against the limit, `seconds` after the model began to load."""

    seconds: float
    dirty_bytes: int
    phase: str


@dataclass(frozen=True, kw_only=True)
class TokenDivergence:
    """KL divergences in nats of the predictions that follow one token of a text; `text` is the token's own."""

    text: str
    quantization: float
    lowering: float
    total: float


@dataclass(frozen=True, kw_only=True)
class LayerDivergence:
    """How far the hidden states that leave a block are from the float model's, by its place in the forward.

    relative_error: root of the squared differences' sum over that of the squares; cosine: mean over tokens.
    """

    layer: int
    relative_error: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a model writes behind a prompt, always the most likely token; an end-of-text token does not end it."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ReferenceDetails:
    """What the reference run tells beside its outputs: `layers` of the dequantized model against the float one, and how
    the float model continues the beginnings of the first sequences."""

    layers: tuple[LayerDivergence, ...] = ()
    continuations: tuple[Continuation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NextWord:
    """One candidate for what follows, and its probability from 0 to 1."""

    text: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What two models say to one prompt: their most likely next tokens, and what each writes of its first choices.

    both: the text that they have in common; original_text and exported_text go on where they part, empty where they do
    not. All three are empty where the exported model was not asked to write.
    """

    prompt: str
    original: tuple[NextWord, ...]
    exported: tuple[NextWord, ...]
    both: str = ""
    original_text: str = ""
    exported_text: str = ""


@dataclass(frozen=True, kw_only=True)
class Details:
    """What a page shows and no report holds."""

    weight_groups: tuple[WeightGroup, ...] = ()
