"""What an Android app needs to pass strings: a Kotlin file, the extensions' package, and what to know about them."""

from __future__ import annotations

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.text import fill

_PACKAGE = "com.microsoft.onnxruntime:onnxruntime-extensions-android"
_WITHOUT = """\
Token ids come from `tokenizer/tokenizer.json`, in the format of Hugging Face's tokenizers. On Android it is read by,
for example, DJL's `ai.djl.huggingface:tokenizers` with `ai.djl.android:tokenizer-native`. The smoke test needs none."""
_WITH = """\
Strings need no library of yours: `EdgeqText.kt`, which you copy too, passes them to {graphs}.

```kotlin
EdgeqText.open(context).use {{ text ->
    check(text.smokeTest().isEmpty()) {{ text.smokeTest() }}
    {use}
}}
```

It takes `{package}`. The graphs have only operators that
this package is built with and ONNX Runtime's own; they read texts as the model's tokenizer did with version {version}
of the extensions on the machine that validated them. The smoke test tells whether this device's release does, in
emoji and other characters beyond U+FFFF as well, which Java spells otherwise than C++."""


def kotlin(manifest: Manifest) -> dict[str, str]:
    """`EdgeqText.kt`; nothing where no graph reads text."""
    text, interface = manifest.text, manifest.interface
    if text is None:
        return {}
    below = {name: path.removeprefix(f"{manifest.root}/") for name, path in _paths(manifest).items()}
    if text.model is not None:
        values = {"OUTPUT": interface.outputs[0], "THREADS": str(manifest.runtime.threads)}
        return {"EdgeqText.kt": fill("text_encoder.kt", {**below, **values})}
    return {"EdgeqText.kt": fill("text_generator.kt", below)}


def dependency(manifest: Manifest) -> str:
    """The line for Gradle; empty where no graph reads text."""
    if manifest.text is None:
        return ""
    return (
        f"    // For EdgeqText.kt. If the repository does not carry {manifest.text.extensions} yet, take the newest\n"
        f'    // there is and run EdgeqText.smokeTest().\n    implementation("{_PACKAGE}:{manifest.text.extensions}")\n'
    )


def advice(manifest: Manifest) -> str:
    """How the app turns text into ids."""
    text = manifest.text
    if text is None:
        return _WITHOUT
    is_encoder = text.model is not None
    return _WITH.format(
        graphs="`model_text.onnx`" if is_encoder else "`tokenizer.onnx`, and ids to `detokenizer.onnx`",
        use='val (cat, kitten) = text.encode(listOf("A cat.", "A kitten."))'
        if is_encoder
        else 'val answer = text.generate(model, "Once upon a time", maxNewTokens = 64)',
        package=_PACKAGE,
        version=text.extensions,
    )


def _paths(manifest: Manifest) -> dict[str, str]:
    """The graphs, by the names that the templates have for them."""
    text = manifest.text
    named = {} if text is None else {"MODEL": text.model, "TOKENIZER": text.tokenizer, "DETOKENIZER": text.detokenizer}
    return {name: path for name, path in named.items() if path is not None}
