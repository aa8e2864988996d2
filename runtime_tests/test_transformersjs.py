"""transformers.js, unmodified, opens a bundle by its own pipelines and says what torch says, in Node and Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import edgeq
from edgeq.core.model import Task
from edgeq.core.recipe import Recipe
from edgeq.models.architecture import load_module
from edgeq.models.demo_model import demo_directory
from edgeq.models.source import load
from edgeq.quantization import allocate, quantize
from edgeq.runtimes.browser.server import serve
from edgeq.targets.profiles import load_profile
from runtime_tests.browser_page import browser_page, require_browser
from tests.models.sentence_model import minilm

SCRIPT = Path(__file__).with_name("pipelines.mjs")
PROMPT, TOKENS = "The history of the", 24
TEXTS = ["Where is the station?", "The train leaves from platform nine.", "Ein Café, 北京, 🚂!"]
Ask = Callable[[Path, dict[str, Any]], Any]


def ask_node(bundle: Path, question: dict[str, Any]) -> Any:  # noqa: ANN401
    _, node, packages = require_browser()
    module = packages / "@huggingface" / "transformers" / "dist" / "transformers.node.mjs"
    question = {**question, "directory": str(bundle.parent), "name": bundle.name}
    done = subprocess.run(
        [node, SCRIPT, module], input=json.dumps(question), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask_chromium(bundle: Path, question: dict[str, Any]) -> Any:  # noqa: ANN401
    """The bundle's vendored copy of transformers.js is the package's own file."""
    shutil.copy(SCRIPT, bundle.parent)
    asked = json.dumps({**question, "directory": "/", "name": bundle.name})
    with serve(bundle.parent) as served, browser_page() as page:
        page.open(f"{served.url}{bundle.name}/index.html")
        return page.evaluate(f"""(async () => {{
            const transformers = await import('/{bundle.name}/vendor/transformers.min.js');
            transformers.env.backends.onnx.wasm.wasmPaths = `${{location.origin}}/{bundle.name}/vendor/`;
            const {{ ask }} = await import('/{SCRIPT.name}');
            return ask(transformers, {asked});
        }})()""")


ASKED = [pytest.param(ask_node, id="node"), pytest.param(ask_chromium, id="chromium")]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle, and torch with the weights that it holds."""

    bundle: Path
    source: Path
    module: Any


def exported(source: Path, task: Task, directory: Path) -> Exported:
    bundle = directory / "bundle"
    edgeq.export(source, task=task, target="browser", method="rtn", output=bundle, validate=False)
    model = load(source, task=task)
    recipe = Recipe(bits=4, method="rtn")
    store = quantize(model, allocate(model, recipe, load_profile("browser"), ("transformersjs",)), directory / "store")
    assert store.weights_digest == json.loads((bundle / "edgeq.json").read_bytes())["weights_digest"]
    module, _ = load_module(source, task, dtype="float32")
    tensors = dict(module.named_parameters())
    with torch.no_grad():
        for name in store.names():
            tensors[name].copy_(torch.from_numpy(np.array(store.dequantized(name))))
    return Exported(bundle=bundle, source=source, module=module)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    require_browser()
    return exported(demo_directory(), "text-generation", tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    require_browser()
    return exported(minilm(), "feature-extraction", tmp_path_factory.mktemp("minilm"))


@pytest.mark.parametrize("ask", ASKED)
def test_text_generation_is_torch_s_greedy_continuation(demo: Exported, ask: Ask) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.source)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    ids = demo.module.generate(**prompt, max_new_tokens=TOKENS, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    found = ask(demo.bundle, {"task": "text-generation", "dtype": "q4", "prompt": PROMPT, "tokens": TOKENS})
    assert found == {"ids": ids.tolist(), "text": tokenizer.decode(ids, skip_special_tokens=True)}


@pytest.mark.parametrize("ask", ASKED)
def test_feature_extraction_is_torch_s(sentences: Exported, ask: Ask) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sentences.source)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = sentences.module(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    found = np.array(ask(sentences.bundle, {"task": "feature-extraction", "dtype": "q4", "texts": TEXTS}))
    assert (found * expected).sum(axis=-1).min() >= 0.999
