"""The graph that prepares pictures, and the oracle that judges it, beside Pillow and transformers' processors."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig

from edgeq.core.images import Bytes, ImageInput, Resample, Resizing, picture
from edgeq.core.report import Verdict
from edgeq.errors import CorruptInputError
from edgeq.files import write_atomic
from edgeq.lowering.onnx.pictures import PICTURE_FILE, picture_model
from edgeq.models.preprocessing import read_image_input
from edgeq.runtimes.pictures import PictureGraph
from edgeq.validation.picture_graph import picture_gates, preprocessed

IMAGE = ImageInput(channels=3, height=32, width=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SIZES = ((90, 61), (17, 200), (32, 24), (20, 15), (300, 500))
LEVELS, MEAN_LEVELS = 4.01, 0.1
"""How far a value may be from Pillow's: its weights are integers, and since 13 it scales the cheaper axis first, which
rounds otherwise at sharp edges."""


def of_size(height: int, width: int, channels: int = 3) -> Bytes:
    return picture(height, replace(IMAGE, height=height, width=width, channels=channels))


def by_pillow(pixels: Bytes, image: ImageInput, resizing: Resizing) -> Bytes:
    height, width = pixels.shape[:2]
    edges = resizing.edges
    if len(edges) == 1:
        edges = (edges[0] * height // min(height, width), edges[0] * width // min(height, width))
    filter_ = Image.Resampling[resizing.resample.upper()]
    whole = np.asarray(Image.fromarray(pixels.squeeze()).resize((edges[1], edges[0]), filter_))
    top, left = (edges[0] - image.height) // 2, (edges[1] - image.width) // 2
    cut = whole[top : top + image.height, left : left + image.width]
    return cut.reshape(image.height, image.width, image.channels)


def written(image: ImageInput, resizing: Resizing, directory: Path) -> Path:
    path = directory / PICTURE_FILE
    write_atomic(path, partial(ir.save, picture_model(image, resizing)))
    return path


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("edges", [(32, 24), (40, 40), (37,)])
def test_graph_and_oracle_scale_as_pillow(resample: Resample, edges: tuple[int, ...], tmp_path: Path) -> None:
    resizing = Resizing(edges=edges, resample=resample)
    graph = PictureGraph(written(IMAGE, resizing, tmp_path))
    for size in SIZES:
        pixels = of_size(*size)
        wanted = IMAGE.normalized(by_pillow(pixels, IMAGE, resizing)[None])
        for found in (graph.values(pixels), preprocessed(pixels, IMAGE, resizing)):
            assert found.shape == wanted.shape == (1, 3, 32, 24)
            levels = np.abs(found - wanted) * np.array(IMAGE.std).reshape(1, 3, 1, 1) * 255
            assert levels.max() < LEVELS
            assert levels.mean() < MEAN_LEVELS


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    image = ImageInput(channels=1, height=16, width=16, mean=(0.0,), std=(1.0,), scale=1.0)
    resizing = Resizing(edges=(16, 16), resample="bilinear")
    pixels = of_size(50, 40, channels=1)
    found = PictureGraph(written(image, resizing, tmp_path)).values(pixels)
    assert np.abs(found[0, 0] - by_pillow(pixels, image, resizing)[:, :, 0]).max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2},
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 40},
            "crop_size": {"height": 32, "width": 32},
            "resample": 3,
        },
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 32},
            "crop_pct": 0.875,
            "resample": 3,
        },
    ],
    ids=["ViT", "CLIP", "ConvNeXt"],
)
def test_it_is_what_transformers_processors_do(settings: dict[str, Any], tmp_path: Path) -> None:
    """Without torchvision, whose own filter rounds otherwise."""
    whole = {**settings, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(whole))
    image, notes = read_image_input(tmp_path, ViTConfig(image_size=32))
    assert notes == ()
    assert image.resizing is not None
    graph = PictureGraph(written(image, image.resizing, tmp_path))
    load_processor: Any = AutoImageProcessor.from_pretrained
    processor = load_processor(tmp_path, backend="pil")
    for size in SIZES:
        pixels = of_size(*size)
        wanted = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
        levels = np.abs(graph.values(pixels) - wanted) * np.array(image.std).reshape(1, 3, 1, 1) * 255
        assert levels.max() < LEVELS
        assert levels.mean() < MEAN_LEVELS


@pytest.mark.parametrize(
    ("settings", "resizing"),
    [
        ({}, Resizing(edges=(64, 64), resample="bilinear")),
        ({"size": 48, "resample": 3}, Resizing(edges=(48, 48), resample="bicubic")),
        ({"size": {"shortest_edge": 48}, "crop_size": 32}, Resizing(edges=(48,), resample="bilinear")),
        ({"size": {"height": 48, "width": 40}, "crop_size": 32}, Resizing(edges=(48, 40), resample="bilinear")),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Resizing(edges=(256,), resample="bilinear")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, Resizing(edges=(384, 384), resample="bilinear")),
        ({"size": 48, "resample": 1}, None),  # Lanczos
        ({"size": 48, "do_resize": False}, None),
        ({"size": {"shortest_edge": 32}, "crop_size": 48}, None),  # cut beyond the picture, which is filled up
    ],
)
def test_how_a_checkpoint_scales_is_read_or_told_to_be_unknown(
    settings: dict[str, Any], resizing: Resizing | None, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": 0.5, "image_std": 0.5}))
    image, notes = read_image_input(tmp_path, ViTConfig(image_size=64))
    assert image.resizing == resizing
    assert bool(notes) == (resizing is None)


def test_a_graph_that_prepares_otherwise_fails(tmp_path: Path) -> None:
    resizing = Resizing(edges=(40,), resample="bicubic")
    path = written(IMAGE, resizing, tmp_path)
    (gate,) = picture_gates(path, IMAGE, resizing)
    assert (gate.verdict, gate.value) == (Verdict.PASSED, "4 of 4")
    for other in (
        picture_model(replace(IMAGE, mean=(0.41, 0.5, 0.6)), resizing),
        picture_model(IMAGE, Resizing(edges=(40,), resample="bilinear")),
        picture_model(IMAGE, Resizing(edges=(41,), resample="bicubic")),
        picture_model(replace(IMAGE, height=30), resizing),
    ):
        write_atomic(path, partial(ir.save, other))
        (gate,) = picture_gates(path, IMAGE, resizing)
        assert gate.verdict is Verdict.FAILED
        assert "of a picture of" in gate.reason
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nothing"
    onnx.save(model, path)
    assert picture_gates(path, IMAGE, resizing)[0].value == "unreadable"


def test_a_picture_of_other_channels_is_an_error(tmp_path: Path) -> None:
    graph = PictureGraph(written(IMAGE, Resizing(edges=(32, 24), resample="bilinear"), tmp_path))
    with pytest.raises(CorruptInputError, match="prepares pictures failed"):
        graph.values(of_size(20, 20, channels=1))
