"""Pictures are always the same ones, and pixels are normalised as torch would."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from edgeq.core.images import KINDS, MOSAIC, ImageInput, is_mosaic, magnified, mosaic, picture, pictures

COLOUR = ImageInput(channels=3, height=40, width=56, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
GREY = ImageInput(channels=1, height=16, width=16, mean=(0.5,), std=(0.5,), scale=1.0)


def test_normalisation_is_what_torch_computes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    found = COLOUR.normalized(pixels)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (COLOUR.mean, COLOUR.std))
    np.testing.assert_allclose(found, ((values - mean) / std).numpy(), atol=1e-5)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_a_number_names_one_picture_on_every_machine() -> None:
    digest = hashlib.sha256(b"".join(picture(number, COLOUR).tobytes() for number in range(8))).hexdigest()
    assert digest == "4cf46fe1c4269b1ceb290507428c9d4d27fc3eaa866a200015ab30c6ce8501d1"


def test_pictures_differ_and_use_the_whole_range() -> None:
    drawn = [picture(number, COLOUR) for number in range(2 * KINDS)]
    assert all(one.shape == (40, 56, 3) and one.dtype == np.uint8 for one in drawn)
    assert len({one.tobytes() for one in drawn}) == len(drawn)
    assert all(int(one.max()) - int(one.min()) > 40 for one in drawn)
    assert pictures([0, 3], GREY).shape == (2, 1, 16, 16)


def test_noise_is_the_weaker_the_finer() -> None:
    """Power by octave of the frequency, which falls in photographs."""
    image = ImageInput(channels=1, height=128, width=128, mean=(0.5,), std=(0.5,))
    values = picture(0, image)[:, :, 0].astype(np.float64)
    power = np.abs(np.fft.fft2(values - values.mean())) ** 2
    across = np.abs(np.fft.fftfreq(128, 1 / 128))
    radius = np.maximum(across[:, None], across[None])
    octaves = [power[(radius >= low) & (radius < 2 * low)].mean() for low in (1, 2, 4, 8, 16, 32)]
    assert octaves == sorted(octaves, reverse=True)


def test_a_mosaic_is_its_squares_magnified() -> None:
    assert [number for number in range(8) if is_mosaic(number)] == [3, 7]
    squares = mosaic(7, 3)
    whole = picture(7, COLOUR)
    assert np.array_equal(whole, magnified(squares, COLOUR))
    for y, x in ((0, 0), (39, 55), (20, 30)):
        assert np.array_equal(whole[y, x], squares[y * MOSAIC // 40, x * MOSAIC // 56])


@pytest.mark.parametrize("number", range(KINDS))
def test_every_kind_is_drawn_in_odd_sizes(number: int) -> None:
    image = ImageInput(channels=3, height=7, width=33, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert picture(number, image).shape == (7, 33, 3)
