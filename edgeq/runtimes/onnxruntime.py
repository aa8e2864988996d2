"""ONNX Runtime: a language model with its key-value cache, an encoder or classifier of texts, a model of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import Interface
from edgeq.core.images import ImageInput, pictures
from edgeq.errors import CorruptInputError, RuntimeUnavailableError, UsageError
from edgeq.runtimes import generation
from edgeq.runtimes.extensions import library
from edgeq.runtimes.generation import Floats, Opening, first_line, padded


def import_onnxruntime() -> Any:  # noqa: ANN401 - the package has no types
    """The `onnxruntime` module with its telemetry off. Raises RuntimeUnavailableError where it is not installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot be imported ({error}).", remedy="Install it: pip install onnxruntime."
        ) from error
    return onnxruntime


def name() -> str:
    return "onnxruntime"


def version() -> str:
    """Of ONNX Runtime. Raises RuntimeUnavailableError where it is not installed."""
    return str(import_onnxruntime().__version__)


def memory_by_part(path: Path) -> dict[str, int]:
    """Nothing: ONNX Runtime plans its memory as it runs."""
    return {}


def open_generator(path: Path, interface: Interface, opening: Opening) -> TextGenerator:
    return TextGenerator(path, interface, tokenizer_path=opening.tokenizer_path, threads=opening.threads)


def open_encoder(path: Path, interface: Interface, opening: Opening) -> generation.Encoder:
    if interface.image is not None:
        return ImageModel(path, interface, interface.image, threads=opening.threads)
    return Encoder(path, interface, tokenizer_path=opening.tokenizer_path, threads=opening.threads)


def open_session(model_path: Path, *, threads: int = 0, extensions: bool = False) -> Any:  # noqa: ANN401
    """An InferenceSession on the CPU; external data next to the model is memory-mapped. threads 0: one per core.
    extensions: for graphs that read text.

    Raises RuntimeUnavailableError, or CorruptInputError where the runtime refuses the file.
    """
    onnxruntime = import_onnxruntime()
    if not model_path.is_file():
        raise CorruptInputError(f"{model_path} is missing.", remedy="Export the bundle again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A decoder's shapes grow with every token: each would leave one more memory plan behind.
    options.enable_mem_pattern = False
    # Packed weights stay out of the arena, which grows by doubling.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if extensions:
        options.register_custom_ops_library(str(library()))
    try:
        return onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise CorruptInputError(
            f"ONNX Runtime refuses {model_path.name}: {first_line(error)}", remedy="Export the bundle again."
        ) from error


def output_of(session: Any, output: str, feeds: dict[str, Any], does: str) -> Any:  # noqa: ANN401 - no types
    """One output of a graph that `does` something beside the model. Raises CorruptInputError with what an operator
    says."""
    try:
        return session.run([output], feeds)[0]
    except MemoryError:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise CorruptInputError(
            f"A graph that {does} failed: {first_line(error)}", remedy="Export the bundle again."
        ) from error


class TextGenerator(generation.TextGenerator):
    """A causal language model. The cache stays in the runtime's own tensors between steps."""

    def __init__(
        self, model_path: Path, interface: Interface, *, tokenizer_path: Path | None = None, threads: int = 0
    ) -> None:
        self._ort = import_onnxruntime()
        self._session = open_session(model_path, threads=threads)
        super().__init__(interface, tokenizer_path)
        self._forget()

    def _forget(self) -> None:
        self._past = {
            f"past_key_values.{layer}.{part}": self._ort.OrtValue.ortvalue_from_shape_and_type(
                [1, heads, 0, size], np.float32, "cpu"
            )
            for layer, (heads, size) in enumerate(self.interface.cache)
            for part in ("key", "value")
        }

    def _append(self, ids: Sequence[int], keep: int) -> Floats:
        feeds = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, self.length + len(ids)), dtype=np.int64),
            "num_logits_to_keep": np.array(keep, dtype=np.int64),
        }
        values = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        outputs = self._session.run_with_ort_values(list(self.interface.outputs), values | self._past)
        named = dict(zip(self.interface.outputs, outputs, strict=True))
        logits: Floats = named.pop("logits").numpy()[0]
        self._past = {name.replace("present.", "past_key_values."): value for name, value in named.items()}
        return logits


class Encoder(generation.Encoder):
    """A sentence encoder, a padded batch at a time."""

    def __init__(
        self, model_path: Path, interface: Interface, *, tokenizer_path: Path | None = None, threads: int = 0
    ) -> None:
        self._session = open_session(model_path, threads=threads)
        super().__init__(interface, tokenizer_path)

    def _run(self, batch: Sequence[Sequence[int]]) -> Floats:
        feeds = padded(batch)
        known = {name: feeds[name] for name in self.interface.inputs}
        output: Floats = self._session.run([self.interface.outputs[0]], known)[0]
        return output


class ImageModel(generation.Encoder):
    """A model of images: one vector, or the logits of classes, each. `forward` takes the numbers of edgeq's pictures,
    one in each sequence; `see` takes any image."""

    def __init__(self, model_path: Path, interface: Interface, image: ImageInput, *, threads: int = 0) -> None:
        self._session = open_session(model_path, threads=threads)
        self.image = image
        super().__init__(interface, None)

    def see(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """`[n, dim]` or `[n, labels]` of 8-bit images `[n, height, width, channels]` in the model's size.

        Raises UsageError for another size.
        """
        wanted = (self.image.height, self.image.width, self.image.channels)
        if pixels.ndim != 4 or pixels.shape[1:] != wanted or pixels.dtype != np.uint8:
            raise UsageError(
                f"The model takes uint8 images {wanted}, not {pixels.dtype} {pixels.shape[1:]}.",
                remedy="Resize and crop them first.",
            )
        return self._answer(self.image.normalized(pixels))

    def _check(self, batch: Sequence[Sequence[int]]) -> None:
        if not batch or any(len(numbers) != 1 for numbers in batch):
            raise UsageError("A model of images takes one picture at a time.", remedy="Give one number per entry.")

    def _run(self, batch: Sequence[Sequence[int]]) -> Floats:
        return self._answer(pictures([numbers[0] for numbers in batch], self.image))

    def _answer(self, pixel_values: Floats) -> Floats:
        output: Floats = self._session.run([self.interface.outputs[0]], {self.interface.inputs[0]: pixel_values})[0]
        return output
