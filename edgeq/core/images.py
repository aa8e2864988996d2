"""Images as a model takes them, and edgeq's own pictures: the same everywhere, so that a number names one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

Resample = Literal["bilinear", "bicubic"]

MOSAIC = 16
"""Squares along each side of a mosaic: a picture that a test can carry whole."""
KINDS = 4
MOSAIC_KIND = 3
OCTAVES = 7


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """How a picture comes to the model's size: its shorter edge to the only one of `edges`, or its height and width to
    both; then its middle is cut out. resample: Pillow's filter of that name."""

    edges: tuple[int, ...]
    resample: Resample


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """What `pixel_values` are, float32 `[batch, channels, height, width]`: `(pixel * scale - mean) / std` of 8-bit
    pixels, mean and std per channel. resizing: None where the processor has a way that edgeq does not know."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    resizing: Resizing | None = None

    def normalized(self, pixels: Bytes) -> Floats:
        """`pixel_values` of uint8 `[batch, height, width, channels]`."""
        mean, std = (np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        values = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def picture(number: int, image: ImageInput) -> Bytes:
    """Picture `number` of an endless row, uint8 `[height, width, channels]`: noise as photographs have it, gradients,
    shapes and mosaics in turn.

    Nothing but additions and products of doubles, so that every machine draws the same.
    """
    random = np.random.default_rng(number)
    match number % KINDS:
        case 0:
            values = _noise(random, image)
        case 1:
            values = _gradient(random, image)
        case 2:
            values = _shapes(random, image)
        case _:
            return magnified(mosaic(number, image.channels), image)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def pictures(numbers: list[int], image: ImageInput) -> Floats:
    """`pixel_values` of several pictures."""
    return image.normalized(np.stack([picture(number, image) for number in numbers]))


def is_mosaic(number: int) -> bool:
    return number % KINDS == MOSAIC_KIND


def mosaic(number: int, channels: int) -> Bytes:
    """The squares of a mosaic, uint8 `[MOSAIC, MOSAIC, channels]`."""
    return np.random.default_rng(number).integers(0, 256, (MOSAIC, MOSAIC, channels), dtype=np.uint8)


def magnified(squares: Bytes, image: ImageInput) -> Bytes:
    """A mosaic in the model's size: pixel `(y, x)` is of square `(y * MOSAIC // height, x * MOSAIC // width)`."""
    rows = np.arange(image.height) * MOSAIC // image.height
    columns = np.arange(image.width) * MOSAIC // image.width
    return np.ascontiguousarray(squares[rows][:, columns])


def _noise(random: np.random.Generator, image: ImageInput) -> Doubles:
    """Octaves of value noise, each twice as fine and half as strong: amplitudes fall as 1 / frequency."""
    total = np.zeros((image.height, image.width, image.channels))
    for octave in range(OCTAVES):
        points = 2 ** (octave + 1) + 1
        total += _stretched(random.random((points, points, image.channels)) - 0.5, image) * 0.5**octave
    low, high = total.min(), total.max()
    return np.asarray((total - low) / (high - low))


def _stretched(grid: Doubles, image: ImageInput) -> Doubles:
    """A square grid over the whole image, linearly between its points: `[height, width, channels]`."""
    points = grid.shape[0]
    for axis, size in enumerate((image.height, image.width)):
        places = np.arange(size) * ((points - 1) / size)
        before = places.astype(np.int64)
        share = (places - before).reshape([-1 if at == axis else 1 for at in range(3)])
        grid = np.take(grid, before, axis) * (1 - share) + np.take(grid, before + 1, axis) * share
    return grid


def _gradient(random: np.random.Generator, image: ImageInput) -> Doubles:
    """From one colour to another and back, along a slanted line."""
    down, right = random.random(2) * 3
    y, x = np.arange(image.height)[:, None] / image.height, np.arange(image.width)[None] / image.width
    phase = (y * down + x * right) % 2
    share = np.where(phase > 1, 2 - phase, phase)[:, :, None]
    first, second = random.random((2, image.channels))
    return np.asarray(first * (1 - share) + second * share)


def _shapes(random: np.random.Generator, image: ImageInput) -> Doubles:
    """A few discs and rectangles, one over the other."""
    values = np.broadcast_to(random.random(image.channels), (image.height, image.width, image.channels)).copy()
    y, x = np.arange(image.height)[:, None] / image.height, np.arange(image.width)[None] / image.width
    for index in range(12):
        centre_y, centre_x, size_y, size_x = random.random(4) * (1, 1, 0.3, 0.3)
        away_y, away_x = y - centre_y, x - centre_x
        inside = (abs(away_y) < size_y) & (abs(away_x) < size_x)
        if index % 2:
            inside = away_y * away_y + away_x * away_x < size_y * size_x
        values[inside] = random.random(image.channels)
    return values
