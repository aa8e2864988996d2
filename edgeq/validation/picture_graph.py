"""Whether a bundle's picture graph makes of pictures of any size what the model's own preprocessor does.

Scaling is worked out here once more, as Pillow does it: https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeq.core.images import Bytes, Doubles, Floats, ImageInput, Resample, Resizing, picture
from edgeq.core.report import Gate
from edgeq.errors import BadInputError, RuntimeUnavailableError
from edgeq.runtimes.pictures import PictureGraph
from edgeq.validation.gates import same

GATE = "picture_graph"
CUBIC = -0.5
SUPPORT: dict[Resample, float] = {"bilinear": 1.0, "bicubic": 2.0}
LEVELS = 1.01
"""How far a value may be off at most, in the 256 levels of a pixel: integers that are rounded the other way."""
MEAN_LEVELS = 0.05
SHAPES = ((1.0, 1.0), (2.3, 3.1), (0.6, 1.0), (1.0, 4.7))
"""Heights and widths of the pictures, as shares of the model's."""


def picture_gates(path: Path, image: ImageInput, resizing: Resizing) -> tuple[Gate, ...]:
    """That the graph's values are those of the preprocessor, on pictures larger and smaller than the model's; none
    without the runtime, which is then missed by the whole run."""
    pictures = list(_pictures(image))
    try:
        graph = PictureGraph(path)
        found = [graph.values(one) for one in pictures]
    except BadInputError as error:
        return (same(GATE, "unreadable", "readable", error.what),)
    except RuntimeUnavailableError:
        return ()
    problems = [_problem(one, values, image, resizing) for one, values in zip(pictures, found, strict=True)]
    wrong = [problem for problem in problems if problem]
    count = len(pictures)
    return (same(GATE, f"{count - len(wrong)} of {count}", f"{count} of {count}", "".join(wrong[:1])),)


def preprocessed(pixels: Bytes, image: ImageInput, resizing: Resizing) -> Floats:
    """`pixel_values` `[1, channels, height, width]` of a picture `[height, width, channels]` of any size."""
    height, width = _scaled_size(pixels, resizing)
    scaled = _scaled(_scaled(pixels, width, 1, resizing.resample), height, 0, resizing.resample)
    top, left = (height - image.height) // 2, (width - image.width) // 2
    return image.normalized(scaled[None, top : top + image.height, left : left + image.width])


def _pictures(image: ImageInput) -> Iterator[Bytes]:
    for number, (tall, wide) in enumerate(SHAPES):
        size = replace(image, height=max(8, round(tall * image.height)), width=max(8, round(wide * image.width)))
        yield picture(number, size)


def _problem(pixels: Bytes, found: Floats, image: ImageInput, resizing: Resizing) -> str:
    wanted = preprocessed(pixels, image, resizing)
    height, width = pixels.shape[:2]
    if found.shape != wanted.shape:
        return f"of a picture of {height} x {width} the graph makes {found.shape}, not {wanted.shape}"
    std = np.array(image.std, dtype=np.float32).reshape(1, -1, 1, 1)
    levels = np.abs(found - wanted) * std / np.float32(image.scale)
    if levels.max() <= LEVELS and levels.mean() <= MEAN_LEVELS:
        return ""
    return (
        f"of a picture of {height} x {width} values are up to {levels.max():.3g} levels off, mean {levels.mean():.2g}"
    )


def _scaled_size(pixels: Bytes, resizing: Resizing) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    if len(resizing.edges) == 2:
        return resizing.edges[0], resizing.edges[1]
    shorter = min(height, width)
    return resizing.edges[0] * height // shorter, resizing.edges[0] * width // shorter


def _scaled(pixels: Bytes, size: int, axis: int, resample: Resample) -> Bytes:
    """One axis scaled, and rounded to whole levels as Pillow does after each."""
    weights = _weights(pixels.shape[axis], size, resample)
    values = np.moveaxis(np.tensordot(weights, pixels.astype(np.float64), axes=(1, axis)), 0, axis)
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def _weights(given: int, size: int, resample: Resample) -> Doubles:
    """`[size, given]`: what each pixel has of those that it is made from. When a picture shrinks the filter widens."""
    step = given / size
    reach = max(step, 1.0)
    centers = (np.arange(size) + 0.5) * step
    distance = np.abs(np.arange(given) + 0.5 - centers[:, None]) / reach
    weights = np.where(distance < SUPPORT[resample], _filter(distance, resample), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _filter(x: Doubles, resample: Resample) -> npt.NDArray[np.float64]:
    """Of distances of at least 0."""
    if resample == "bilinear":
        return np.asarray(1.0 - x)
    near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC
    return np.where(x < 1.0, near, far)
