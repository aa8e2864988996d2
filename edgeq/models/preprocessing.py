"""What a checkpoint says about its images: size, mean and standard deviation; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.core.images import ImageInput, Resample, Resizing
from edgeq.errors import UnsupportedModelError
from edgeq.models.checkpoint import inside, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
BILINEAR = 2
RESAMPLES: dict[object, Resample] = {BILINEAR: "bilinear", 3: "bicubic"}
"""By Pillow's number."""
CONVNEXT_UNCUT = 384
"""From this edge on ConvNeXt's processor cuts nothing off: https://huggingface.co/docs/transformers/model_doc/convnext."""
ASSUMED = 0.5
"""Mean and standard deviation of a model that names none."""


def read_image_input(directory: Path, config: PreTrainedConfig) -> tuple[ImageInput, tuple[str, ...]]:
    """What the model takes, and a note for the report where a part of that is assumed.

    Raises UnsupportedModelError where neither the preprocessor nor the configuration names a size.
    """
    settings = _settings(directory)
    size = _size(settings) or _pair(getattr(config, "image_size", None))
    if size is None:
        raise UnsupportedModelError(
            f"{directory} does not say what size its images have.",
            remedy=f"Add the model's {PREPROCESSOR_FILE}; the size is fixed in the exported model.",
        )
    channels = int(getattr(config, "num_channels", 3))
    if channels not in (1, 3):
        raise UnsupportedModelError(
            f"{directory} takes images of {channels} channels.", remedy="Use a model of grey or of colour images."
        )
    mean, std = settings.get("image_mean"), settings.get("image_std")
    notes: tuple[str, ...] = ()
    if settings.get("do_normalize") is False:
        mean, std = 0.0, 1.0
    elif mean is None or std is None:
        mean, std = ASSUMED, ASSUMED
        notes = (f"The checkpoint names no mean and deviation of its images: {ASSUMED} each is assumed.",)
    shift = 1.0 if settings.get("rescale_offset") else 0.0  # EfficientNet's: pixels to -1 ... 1 before all else
    scale = 1.0 if settings.get("do_rescale") is False else float(settings.get("rescale_factor", 1 / 255))
    image = ImageInput(
        channels=channels,
        height=size[0],
        width=size[1],
        mean=tuple(value + shift for value in _per_channel(mean, channels)),
        std=_per_channel(std, channels),
        scale=scale,
        resizing=_resizing(settings, size),
    )
    if image.resizing is None:
        notes += ("The checkpoint scales its images in a way that has no graph here: an app has to do that.",)
    return image, notes


def preprocessor_files(directory: Path) -> tuple[str, ...]:
    """The files that say what images are to be like, as far as there are any."""
    return tuple(name for name in (PREPROCESSOR_FILE, PROCESSOR_FILE) if (directory / name).is_file())


def _settings(directory: Path) -> dict[str, Any]:
    """The image processor's; empty where there is none."""
    if (directory / PREPROCESSOR_FILE).is_file():
        return read_json(inside(directory, PREPROCESSOR_FILE))
    if (directory / PROCESSOR_FILE).is_file():
        part = read_json(inside(directory, PROCESSOR_FILE)).get("image_processor")
        return part if isinstance(part, dict) else {}
    return {}


def _size(settings: dict[str, Any]) -> tuple[int, int] | None:
    """`(height, width)` of what the processor hands on: the crop, else what it resizes to."""
    crops = settings.get("do_center_crop", "crop_size" in settings)
    return (_pair(settings.get("crop_size")) if crops else None) or _pair(settings.get("size"))


def _resizing(settings: dict[str, Any], size: tuple[int, int]) -> Resizing | None:
    """How images come to `size`; None where edgeq does not know how: another filter, or a cut beyond the image."""
    resample = RESAMPLES.get(settings.get("resample", BILINEAR))
    if resample is None or settings.get("do_resize") is False:
        return None
    edges: tuple[int, ...]
    wanted = settings.get("size")
    edge = wanted.get("shortest_edge") if isinstance(wanted, dict) else None
    if edge is None:
        edges = _pair(wanted) or size
    elif "crop_pct" not in settings:
        edges = (int(edge),)
    else:  # ConvNeXt's
        edges = (int(edge / settings["crop_pct"]),) if edge < CONVNEXT_UNCUT else (int(edge), int(edge))
    if any(edge < length for edge, length in zip(edges * (3 - len(edges)), size, strict=True)):
        return None
    return Resizing(edges=edges, resample=resample)


def _pair(size: object) -> tuple[int, int] | None:
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    if isinstance(size, int):
        size = (size, size)
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(edge, int) and edge > 0 for edge in size):
        return size[0], size[1]
    return None


def _per_channel(value: Any, channels: int) -> tuple[float, ...]:  # noqa: ANN401 - a number or a list of them
    if not isinstance(value, list):
        return (float(value),) * channels
    if len(value) not in (1, channels):
        raise UnsupportedModelError(
            f"{PREPROCESSOR_FILE} names {len(value)} channels, {channels} are in config.json.",
            remedy="Take the files of one model.",
        )
    return tuple(map(float, value * channels if len(value) == 1 else value))
