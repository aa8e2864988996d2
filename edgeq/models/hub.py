"""A hub id to a local snapshot. The only place that may use the network, and only where a hub id was named."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from edgeq.errors import SourceNotFoundError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*", "NOTICE*"]
UNWANTED = ["onnx/*", "openvino/*", "original/*", "consolidated*", "adapter_model*"]
TIMEOUT_SECONDS = 10.0


def is_hub_id(source: str) -> bool:
    """Whether the text has the form `owner/name`, or `owner/name@revision`."""
    return HUB_ID.fullmatch(source) is not None and ".." not in source


def snapshot(source: str) -> Path:
    """Download what a text model needs, or find it in huggingface_hub's cache; no pickles, no code.

    Raises SourceNotFoundError for whatever goes wrong, in one line.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    repository, _, revision = source.partition("@")
    try:
        path = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            etag_timeout=TIMEOUT_SECONDS,
        )
    except Exception as error:
        raise SourceNotFoundError(
            f"{source} is not a directory here, and the hub does not give it ({_reason(error)}).",
            remedy="Check the name and the network, or name a local directory.",
        ) from error
    return Path(path)


def _reason(error: Exception) -> str:
    """The cause in a few words: the first cause knows more than the library's last exception."""
    known = {
        "GatedRepoError": "access to it is restricted",
        "RepositoryNotFoundError": "no such repository",
        "RevisionNotFoundError": "no such revision",
        "LocalEntryNotFoundError": "no connection to the hub, and not in the cache",
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
        "HFValidationError": "not a valid name",
    }
    name = type(error).__name__
    lines = str(error).strip().splitlines()
    return known.get(name) or f"{name}: {lines[0][:120] if lines else 'no message'}"
