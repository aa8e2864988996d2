"""Embed sentences with an exported encoder and print which one is nearest to the first.

python examples/embed_sentences.py BUNDLE
"""

from __future__ import annotations

import sys

import edgeq
from edgeq.runtimes.onnxruntime import Encoder

SENTENCES = (
    "How do I reset my password?",
    "I forgot my login and cannot get in.",
    "The delivery arrived two days late.",
    "Which payment methods do you accept?",
)


def main(bundle: str) -> None:
    model = edgeq.load(bundle)
    if not isinstance(model, Encoder):
        raise SystemExit(f"{bundle} holds no sentence encoder.")
    question, *others = model.encode(list(SENTENCES))
    similarities = [float(question @ other) for other in others]
    for sentence, similarity in sorted(zip(SENTENCES[1:], similarities, strict=True), key=lambda pair: -pair[1]):
        print(f"{similarity:6.3f}  {sentence}")


if __name__ == "__main__":
    main(sys.argv[1])
