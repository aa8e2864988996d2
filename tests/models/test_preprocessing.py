"""What a checkpoint says about its images, in the spellings that there are, and what it may leave out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import ResNetConfig, ViTConfig

from edgeq.errors import UnsupportedModelError
from edgeq.models.preprocessing import read_image_input


def write(directory: Path, settings: dict[str, Any], name: str = "preprocessor_config.json") -> Path:
    (directory / name).write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"height": 192, "width": 256}}, (192, 256)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 200}}, (224, 200)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True}, (224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False}, (256, 256)),
        ({"size": [128, 96]}, (128, 96)),
        ({}, (64, 64)),
    ],
)
def test_the_size_is_what_the_processor_hands_on(
    tmp_path: Path, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    image, _ = read_image_input(write(tmp_path, settings), ViTConfig(image_size=64))
    assert (image.height, image.width) == size


def test_mean_and_deviation_are_the_model_s(tmp_path: Path) -> None:
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 0.5}
    image, notes = read_image_input(write(tmp_path, settings), ViTConfig())
    assert (image.mean, image.std, image.scale, notes) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.5, ())


def test_no_normalisation_leaves_pixels_between_0_and_1(tmp_path: Path) -> None:
    settings = {"do_normalize": False, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    image, notes = read_image_input(write(tmp_path, settings), ViTConfig())
    assert (image.mean, image.std, image.scale, notes) == ((0.0,) * 3, (1.0,) * 3, 1 / 255, ())


def test_efficientnet_s_offset_comes_before_the_mean(tmp_path: Path) -> None:
    settings = {"rescale_offset": True, "rescale_factor": 1 / 127.5, "image_mean": [0.25], "image_std": [2]}
    image, _ = read_image_input(write(tmp_path, settings), ViTConfig())
    assert (image.mean, image.std, image.scale) == ((1.25,) * 3, (2.0,) * 3, 1 / 127.5)


def test_a_processor_s_file_holds_the_image_processor(tmp_path: Path) -> None:
    directory = write(tmp_path, {"image_processor": {"size": 48}}, "processor_config.json")
    assert read_image_input(directory, ViTConfig())[0].height == 48


def test_without_a_preprocessor_a_mean_is_assumed_and_said(tmp_path: Path) -> None:
    image, notes = read_image_input(tmp_path, ViTConfig(image_size=64, num_channels=1))
    assert (image.height, image.mean, image.std) == (64, (0.5,), (0.5,))
    assert len(notes) == 1
    assert "assumed" in notes[0]


def test_without_any_size_nothing_is_assumed(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="what size") as caught:
        read_image_input(tmp_path, ResNetConfig())
    assert "preprocessor_config.json" in caught.value.remedy


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        (ViTConfig(num_channels=4), {"size": 32}, "4 channels"),
        (ViTConfig(), {"size": 32, "image_mean": [0.1, 0.2], "image_std": [0.1, 0.2]}, "names 2 channels"),
    ],
)
def test_other_channels_are_refused(tmp_path: Path, config: ViTConfig, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read_image_input(write(tmp_path, settings), config)
