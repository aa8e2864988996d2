"""`edgeq.load`: a bundle, or a model that is quantized on the way, ready to be called."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.bundle.manifest import MANIFEST, verify
from edgeq.runtimes.opening import open_bundle

if TYPE_CHECKING:
    from edgeq.runtimes.onnxruntime import Encoder, TextGenerator


def load(path: str | Path | None = None, *, bits: int = 4, threads: int = 0) -> TextGenerator | Encoder:
    """A language model with `generate(prompt)`, or an encoder with `encode(sentences)`.

    path: a bundle that `edgeq export` wrote, whose files are checked first; or a Hugging Face directory, a hub id, or
    None for the demo model, which is then quantized to `bits` for this process. threads 0: one per core.
    Raises EdgeqError.
    """
    if path is not None and (Path(path) / MANIFEST).is_file():
        verify(Path(path))
        return open_bundle(Path(path), threads=threads)
    from edgeq.pipeline import export

    directory = Path(tempfile.mkdtemp(prefix="edgeq-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    export(path, target="edge", bits=bits, output=directory / "bundle", validate=False)
    return open_bundle(directory / "bundle", threads=threads)
