"""The Kotlin of models that answer in one forward: vectors or the logits of classes, of texts or of images."""

from __future__ import annotations

from edgeq.bundle.text import fill
from edgeq.core.artifact import Interface
from edgeq.core.task import TASKS

_COSINE = """\
        /** How alike two vectors are, from -1 to 1. A longer [a] is read as far as [b] goes. */
        fun cosine(a: FloatArray, b: FloatArray): Double {
            var product = 0.0
            var lengthA = 0.0
            var lengthB = 0.0
            for (index in b.indices) {
                product += a[index].toDouble() * b[index]
                lengthA += a[index].toDouble() * a[index]
                lengthB += b[index].toDouble() * b[index]
            }
            return product / sqrt(lengthA * lengthB)
        }
"""
_LARGEST_DIFFERENCE = """\
        /** How far [a] is from [b] at most. A longer [a] is read as far as [b] goes. */
        fun largestDifference(a: FloatArray, b: FloatArray): Double = b.indices.maxOf { abs(a[it] - b[it]) }.toDouble()
"""
_LABELS = """
    /** The names of the classes, in the order of the logits. */
    fun labels(): List<String> {
        val names = JSONObject(File(directory, "tokenizer/config.json").readText()).getJSONObject("id2label")
        return List(names.length()) { names.getString(it.toString()) }
    }
"""
_VECTORS_OF_TEXT = """\
     * The vector of one sentence, with the tokenizer's special tokens in [ids]. A model that does not pool gives the
     * hidden states of all tokens in a row."""
_CLASSES_OF_TEXT = """\
     * The logits of one text's classes, with the tokenizer's special tokens in [ids]."""
_CLASSES_OF_TOKENS = """\
     * The logits of the classes of each token in turn, with the tokenizer's special tokens in [ids]."""


def call(interface: Interface) -> str:
    """What an app writes."""
    traits = TASKS[interface.task]
    given = "sentenceIds" if traits.takes == "tokens" else "pixels"
    if traits.is_classifier:
        return f"val logits: FloatArray = model.classify({given})"
    return f"val vector: FloatArray = model.encode({given})"


def model_kotlin(interface: Interface, values: dict[str, str]) -> str:
    """EdgeqModel.kt; values: the model's path and the number of threads."""
    traits = TASKS[interface.task]
    values = {**values, **_answer(traits.is_classifier), "OUTPUT": interface.outputs[0]}
    image = interface.image
    if image is None:
        about = _CLASSES_OF_TOKENS if traits.by_token else _CLASSES_OF_TEXT
        values |= {
            "NOUN": "classifier" if traits.is_classifier else "encoder",
            "ABOUT": about if traits.is_classifier else _VECTORS_OF_TEXT,
        }
        return fill("encoder.kt", _measured(values, "ids"))
    values |= {
        "ABOUT": "The logits of one image's classes." if traits.is_classifier else "The vector of one image.",
        "SCALE": f"{image.scale!r}f",
        "MEAN": ", ".join(f"{value!r}f" for value in image.mean),
        "STD": ", ".join(f"{value!r}f" for value in image.std),
        "CHANNELS": str(image.channels),
        "HEIGHT": str(image.height),
        "WIDTH": str(image.width),
    }
    return fill("image.kt", _measured(values, 'mosaic(case.getString("squares"))'))


def _answer(is_classifier: bool) -> dict[str, str]:
    """What differs between logits and vectors."""
    if is_classifier:
        return {
            "RESULT": "the logits of classes",
            "VALUE": "logits",
            "VERB": "classify",
            "FIELD": "logits",
            "LABELS": _LABELS,
            "MEASURE": "the largest difference",
            "HELPER": _LARGEST_DIFFERENCE,
            "IMPORT": "abs",
        }
    return {
        "RESULT": "a vector",
        "VALUE": "vector",
        "VERB": "encode",
        "FIELD": "embedding",
        "LABELS": "",
        "MEASURE": "1 - cosine",
        "HELPER": _COSINE,
        "IMPORT": "sqrt",
    }


def _measured(values: dict[str, str], given: str) -> dict[str, str]:
    """With how far an answer to `given` is from the expected one."""
    answer = f"{values['VERB']}({given})"
    is_classifier = values["FIELD"] == "logits"
    distance = f"largestDifference({answer}, expected)" if is_classifier else f"1 - cosine({answer}, expected)"
    return {**values, "DISTANCE": distance}
