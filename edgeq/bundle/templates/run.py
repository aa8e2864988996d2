"""Run this bundle: `python run.py "Once upon a time"`, or sentences, or image files, as the model takes; `--check`.

Needs requirements.txt alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

HERE = Path(__file__).resolve().parent
LARGEST_REQUEST = 1 << 20


class Bundle:
    """The model in this directory, opened in ONNX Runtime."""

    def __init__(self, threads: int | None = None) -> None:
        self.manifest = json.loads((HERE / "edgeq.json").read_text(encoding="utf-8"))
        self.interface = self.manifest["interface"]
        options = onnxruntime.SessionOptions()
        wanted = threads or self.manifest["runtime"]["threads"]
        options.intra_op_num_threads = min(wanted, os.cpu_count() or 1)
        # As the bundle was validated: no memory plan per shape, no second copy of packed weights in the arena.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self.session = onnxruntime.InferenceSession(
            str(HERE / self.manifest["model"]), options, providers=["CPUExecutionProvider"]
        )
        self.input_names = {value.name for value in self.session.get_inputs()}
        self.output_names = [value.name for value in self.session.get_outputs()]

    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        folder = self.manifest["tokenizer"]
        if folder is None:
            sys.exit("This model came without a tokenizer.json: only --check works.")
        tokenizer = Tokenizer.from_file(str(HERE / folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if self.interface["task"] != "text-generation":
            tokenizer.enable_truncation(self.interface["context_length"])
        return tokenizer

    def run(self, ids: list[int], total: int, extra: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """One run over `ids`; `total` counts them and the tokens before them. Returns the outputs by name."""
        feeds: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "token_type_ids": np.zeros((1, total), np.int64),
            "num_logits_to_keep": np.array(1, np.int64),
            **extra,
        }
        feeds = {name: value for name, value in feeds.items() if name in self.input_names}
        return dict(zip(self.output_names, self.session.run(None, feeds), strict=True))

    def step(self, ids: list[int], total: int, cache: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits `[vocabulary]` after `ids`; `cache` goes in and comes back longer."""
        outputs = self.run(ids, total, cache)
        for name in cache:
            cache[name] = outputs[name.replace("past_key_values", "present")]
        logits: npt.NDArray[np.float32] = outputs["logits"][0, -1]
        return logits

    def empty_cache(self) -> dict[str, npt.NDArray[Any]]:
        """A key-value cache with no tokens in it."""
        return {
            f"past_key_values.{layer}.{part}": np.zeros((1, heads, 0, size), np.float32)
            for layer, (heads, size) in enumerate(self.interface["cache"])
            for part in ("key", "value")
        }

    def generate(self, ids: list[int], most: int, temperature: float, seed: int) -> Iterator[int]:
        """New tokens, one by one, until an end of text, `most` of them, or the end of the context."""
        generator = np.random.default_rng(seed)
        cache, total = self.empty_cache(), 0
        for _ in range(min(most, self.interface["context_length"] - len(ids))):
            total += len(ids)
            token = choose(self.step(ids, total, cache), temperature, generator)
            if token in self.interface["end_of_text_ids"]:
                return
            yield token
            ids = [token]

    def embed(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """The vector of one sentence; the first token's hidden state of a model that does not pool."""
        output = self.run(ids, len(ids), {})[self.interface["outputs"][0]][0]
        vector: npt.NDArray[np.float32] = output if output.ndim == 1 else output[0]
        return vector

    def classify(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of a text's classes; those of the first token of a model that classifies tokens."""
        return self.embed(ids)

    def see(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The vector, or the logits of the classes, of an image `[height, width, channels]` in the model's size."""
        image = self.interface["image"]
        mean, std = np.array(image["mean"], np.float32), np.array(image["std"], np.float32)
        values = (pixels.astype(np.float32) * np.float32(image["scale"]) - mean) / std
        feeds = {"pixel_values": np.ascontiguousarray(values.transpose(2, 0, 1)[None])}
        answer: npt.NDArray[np.float32] = self.session.run([self.output_names[0]], feeds)[0][0]
        return answer

    def open_image(self, path: str) -> npt.NDArray[np.uint8]:
        """A file scaled and cut to the model's size, as its own preprocessor does it where that is known."""
        from PIL import Image

        image = self.interface["image"]
        height, width = image["height"], image["width"]
        resizing = image["resizing"] or {"edges": [height, width], "resample": "bilinear"}
        with Image.open(path) as opened:
            picture = opened.convert("L" if image["channels"] == 1 else "RGB")
        edges = resizing["edges"]
        if len(edges) == 1:  # of the shorter side
            edges = [edges[0] * side // min(picture.size) for side in (picture.height, picture.width)]
        picture = picture.resize((edges[1], edges[0]), Image.Resampling[resizing["resample"].upper()])
        top, left = (edges[0] - height) // 2, (edges[1] - width) // 2
        picture = picture.crop((left, top, left + width, top + height))
        return np.asarray(picture).reshape(height, width, image["channels"])

    def mosaic(self, squares: str) -> npt.NDArray[np.uint8]:
        """A golden image: 16 x 16 squares in hex."""
        image = self.interface["image"]
        colours = np.frombuffer(bytes.fromhex(squares), np.uint8).reshape(16, 16, image["channels"])
        rows = np.arange(image["height"]) * 16 // image["height"]
        columns = np.arange(image["width"]) * 16 // image["width"]
        whole: npt.NDArray[np.uint8] = colours[rows][:, columns]
        return whole


def choose(logits: npt.NDArray[np.float32], temperature: float, generator: np.random.Generator) -> int:
    """The most likely token at temperature 0, else one drawn from the tempered distribution."""
    if temperature <= 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = np.exp(scaled)
    return int(generator.choice(len(weights), p=weights / weights.sum()))


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """How alike two vectors are, from -1 to 1."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def compare(bundle: Bundle, case: dict[str, Any]) -> tuple[float, str]:
    """How far the bundle is from a golden case, in the unit of the tolerance; and what else is wrong."""
    if "top_ids" in case:
        ids = case["input_ids"]
        logits = bundle.step(ids, len(ids), bundle.empty_cache())
        missed = int(logits.argmax()) not in case["top_ids"]
        off = float(np.abs(logits[case["top_ids"]] - case["top_logits"]).max())
        return off, f"the best token is none of {case['top_ids']}" if missed else ""
    answer = bundle.see(bundle.mosaic(case["squares"])) if "squares" in case else bundle.embed(case["input_ids"])
    if "logits" in case:
        return float(np.abs(answer - case["logits"]).max()), ""
    return 1 - cosine(answer, np.array(case["embedding"])), ""


def check(bundle: Bundle) -> list[str]:
    """What is wrong with the files or with what this machine computes from them; empty where all is well."""
    manifest = bundle.manifest
    complaints = []
    for entry in [*manifest["files"], *manifest["report"]["files"]]:
        path = HERE / entry["path"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            complaints.append(f"{entry['path']} is missing or was changed")
    golden = json.loads((HERE / manifest["golden"]).read_text(encoding="utf-8"))
    if not golden["cases"]:
        complaints.append("there are no golden cases to compare with: it was exported without validation")
    for number, case in enumerate(golden["cases"]):
        off, complaint = compare(bundle, case)
        complaints += [f"golden case {number}: {complaint}"] if complaint else []
        if not off <= golden["tolerance"]:  # written so that NaN complains too
            complaints.append(f"golden case {number}: off by {off:.4g}, {golden['tolerance']:.4g} allowed")
    return complaints


def serve(bundle: Bundle, port: int) -> None:
    """Answer POST on 127.0.0.1: {"prompt": text, "max_new_tokens": n} or {"sentences": [text, ...]}."""
    tokenizer = bundle.tokenizer()

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # one request at a time: a silent client must not hold up the others

        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 <= length <= LARGEST_REQUEST:
                    return self.answer(413, {"error": "the request is too large"})
                return self.answer(200, respond(bundle, tokenizer, json.loads(self.rfile.read(length))))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return self.answer(400, {"error": str(error)})

        def answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = HTTPServer(("127.0.0.1", port), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def respond(bundle: Bundle, tokenizer: Tokenizer, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request of `serve`."""
    if "classification" in bundle.interface["task"]:
        return {
            "classes": [classes(bundle, bundle.classify(tokenizer.encode(str(t)).ids)) for t in request["sentences"]]
        }
    if bundle.interface["task"] == "feature-extraction":
        ids = [tokenizer.encode(str(text)).ids for text in request["sentences"]]
        return {"embeddings": [bundle.embed(sentence).tolist() for sentence in ids]}
    prompt = prompt_ids(bundle, tokenizer, str(request["prompt"]))
    most, temperature = int(request.get("max_new_tokens", 64)), float(request.get("temperature", 0))
    pieces = DecodeStream(ids=prompt, skip_special_tokens=True)
    tokens = list(bundle.generate(prompt, most, temperature, int(request.get("seed", 0))))
    return {"text": "".join(pieces.step(tokenizer, token) or "" for token in tokens), "tokens": len(tokens)}


def prompt_ids(bundle: Bundle, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Token ids of a prompt that leaves room for an answer. Raises ValueError."""
    ids: list[int] = tokenizer.encode(prompt).ids or [bundle.interface["begin_of_text_id"] or 0]
    if len(ids) >= bundle.interface["context_length"]:
        raise ValueError(f"the prompt has {len(ids)} tokens, the context {bundle.interface['context_length']}")
    return ids


def show_text(bundle: Bundle, prompt: str, options: argparse.Namespace) -> None:
    """Print the prompt and its continuation as it comes."""
    tokenizer = bundle.tokenizer()
    try:
        ids = prompt_ids(bundle, tokenizer, prompt)
    except ValueError as error:
        sys.exit(str(error))
    print(prompt, end="", flush=True)
    # Seeded with the prompt, so that a space before the first new word is kept; holds back half characters.
    pieces = DecodeStream(ids=ids, skip_special_tokens=True)
    for token in bundle.generate(ids, options.max_new_tokens, options.temperature, options.seed):
        print(pieces.step(tokenizer, token) or "", end="", flush=True)
    print()


def show_similarities(bundle: Bundle, sentences: list[str]) -> None:
    """Print how alike the sentences are, each with each."""
    tokenizer = bundle.tokenizer()
    vectors = [bundle.embed(tokenizer.encode(sentence).ids) for sentence in sentences]
    for vector, sentence in zip(vectors, sentences, strict=True):
        print(" ".join(f"{cosine(vector, other):6.3f}" for other in vectors), "", sentence)


def classes(bundle: Bundle, logits: npt.NDArray[np.float32], most: int = 5) -> dict[str, float]:
    """The most likely classes with their probabilities; with multi_label, or of one alone, each is true or not."""
    labels = bundle.interface["labels"]
    if bundle.interface["multi_label"] or len(logits) == 1:
        chances = 1 / (1 + np.exp(-logits))
    else:
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
    return {labels[index]: float(chances[index]) for index in np.argsort(-chances)[:most]}


def show_classes(bundle: Bundle, given: list[str]) -> None:
    """Print the most likely classes of texts or image files, for a model of tokens those of each token."""
    if bundle.interface["image"] is not None:
        for path in given:
            print(path, classes(bundle, bundle.see(bundle.open_image(path))))
        return
    tokenizer = bundle.tokenizer()
    for text in given:
        encoding = tokenizer.encode(text)
        output = bundle.run(encoding.ids, len(encoding.ids), {})["logits"][0]
        if output.ndim == 1:
            print(text, classes(bundle, output))
            continue
        for token, logits in zip(encoding.tokens, output, strict=True):
            print(token, classes(bundle, logits, most=1))


def show_images(bundle: Bundle, paths: list[str]) -> None:
    """Print how alike images are, each with each."""
    vectors = [bundle.see(bundle.open_image(path)) for path in paths]
    for vector, path in zip(vectors, paths, strict=True):
        print(" ".join(f"{cosine(vector, other):6.3f}" for other in vectors), "", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", nargs="*", help="a prompt, sentences to compare, texts or image files to classify")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: the profile's, at most the machine's cores")
    parser.add_argument("--check", action="store_true", help="verify the files and the golden outputs")
    parser.add_argument("--serve", type=int, metavar="PORT", help="answer HTTP POST on 127.0.0.1")
    options = parser.parse_args()
    if not (options.text or options.check or options.serve is not None):
        parser.error("give a text, --check or --serve PORT")
    bundle = Bundle(options.threads)
    if options.check:
        complaints = check(bundle)
        print("\n".join(complaints) or "all is well")
        sys.exit(1 if complaints else 0)
    if options.serve is not None:
        serve(bundle, options.serve)
    elif bundle.interface["task"] == "text-generation":
        show_text(bundle, " ".join(options.text), options)
    elif "classification" in bundle.interface["task"]:
        show_classes(bundle, options.text)
    elif bundle.interface["image"] is not None:
        show_images(bundle, options.text)
    else:
        show_similarities(bundle, options.text)


if __name__ == "__main__":
    main()
