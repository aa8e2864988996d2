"""Every input that must be refused: one clear line, its exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgeq import cli
from runtime_tests.commands import assert_one_line, contents, edgeq, mount_prefix
from tests.tiny_models import tiny_llama

WEIGHTS = "model.safetensors"
LINEAR = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"
Refused = Callable[..., None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "model", dtype="bfloat16")


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a copy of a good model in `model`."""
    shutil.copytree(original, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(place: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """A command line that must end with this code, one line with these words, and nothing changed."""

    def check(*arguments: str, code: int, words: tuple[str, ...]) -> None:
        before = contents(place)
        assert cli.run(arguments) == code
        streams = capfd.readouterr()
        assert streams.out == ""
        assert_one_line(streams.err, *words)
        assert contents(place) == before

    return check


def header_of(model: Path) -> tuple[dict[str, Any], bytes]:
    """The header of the weights, and the bytes behind it."""
    data = (model / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_weights(model: Path, header: dict[str, Any], body: bytes, *, length: int | None = None) -> None:
    text = json.dumps(header).encode()
    size = (len(text) if length is None else length).to_bytes(8, "little")
    (model / WEIGHTS).write_bytes(size + text + body)


def write_index(model: Path, shard: str) -> None:
    header, _ = header_of(model)
    weight_map = dict.fromkeys(set(header) - {"__metadata__"}, shard)
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pickle_only(model: Path) -> None:
    (model / WEIGHTS).rename(model / "pytorch_model.bin")


def truncate(model: Path) -> None:
    path = model / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def announce_a_huge_header(model: Path) -> None:
    write_weights(model, *header_of(model), length=1 << 50)


def announce_a_larger_tensor(model: Path) -> None:
    header, body = header_of(model)
    header[LINEAR]["shape"][0] *= 1000
    write_weights(model, header, body)


def point_past_the_end(model: Path) -> None:
    header, body = header_of(model)
    start, end = header[LINEAR]["data_offsets"]
    header[LINEAR]["data_offsets"] = [start + len(body), end + len(body)]
    write_weights(model, header, body)


def overlap(model: Path) -> None:
    header, body = header_of(model)
    start, end = header[LINEAR]["data_offsets"]
    header[LINEAR]["data_offsets"] = [start - 64, end - 64]
    write_weights(model, header, body)


def climb_out(model: Path) -> None:
    write_index(model, "../x.safetensors")
    (model / WEIGHTS).rename(model.parent / "x.safetensors")


def name_an_absolute_shard(model: Path) -> None:
    write_index(model, str(model.parent / "x.safetensors"))
    (model / WEIGHTS).rename(model.parent / "x.safetensors")


def link_out(model: Path) -> None:
    (model / WEIGHTS).rename(model.parent / "x.safetensors")
    (model / WEIGHTS).symlink_to("../x.safetensors")


def need_remote_code(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "modeling_x.py").write_text("raise SystemExit('this ran')\n")


def put_nan(model: Path, name: str, value: float) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[5] = ml_dtypes.bfloat16(value)
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})


def put_nan_into_a_linear(model: Path) -> None:
    put_nan(model, LINEAR, np.nan)


def put_infinity_into_a_linear(model: Path) -> None:
    put_nan(model, LINEAR, np.inf)


def put_nan_into_a_norm(model: Path) -> None:
    put_nan(model, NORM, np.nan)


def break_the_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


DAMAGES: dict[Callable[[Path], None], tuple[str, str]] = {
    pickle_only: ("pickle (pytorch_model.bin)", "Convert it to safetensors"),
    truncate: (f"{WEIGHTS} is not a whole safetensors file", "Copy or download the model again."),
    announce_a_huge_header: (f"{WEIGHTS} is not a whole safetensors file", "Copy or download the model again."),
    announce_a_larger_tensor: (f"{WEIGHTS} is not a whole safetensors file", "Copy or download the model again."),
    point_past_the_end: (f"{WEIGHTS} is not a whole safetensors file", "Copy or download the model again."),
    overlap: (f"{WEIGHTS} is not a whole safetensors file", "Copy or download the model again."),
    climb_out: ("'../x.safetensors' leaves", "Do not use files from whoever made this."),
    name_an_absolute_shard: ("x.safetensors' leaves", "Do not use files from whoever made this."),
    link_out: ("is a link that leaves", "Copy the file itself"),
    need_remote_code: ("Python code that comes with it", "edgeq never runs code from a model"),
    put_nan_into_a_linear: (f"{LINEAR!r} contains NaN or infinity", "Take another copy"),
    put_infinity_into_a_linear: (f"{LINEAR!r} contains NaN or infinity", "Take another copy"),
    put_nan_into_a_norm: (f"{NORM!r} contains NaN or infinity", "Take another copy"),
    break_the_tokenizer: ("The tokenizer of model cannot be opened", "Copy or download the tokenizer files again."),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_bad_checkpoint_is_exit_4(refused: Refused, place: Path, damage: Callable[[Path], None]) -> None:
    damage(place / "model")
    refused("export", "model", "--output", "new/bundle", code=4, words=DAMAGES[damage])


def test_a_store_that_cannot_be_finished_is_removed(refused: Refused, place: Path) -> None:
    put_nan_into_a_linear(place / "model")
    refused("quantize", "model", "--output", "new/store", code=4, words=("NaN", "Take another copy"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("no/such/directory", ("no/such/directory is not a directory here", "Check the path")),
        ("model/config.json", ("model/config.json is a file", "Name the directory")),
        ("model --target andrid", ("'andrid'", "Did you mean 'android'?")),
        ("model --bits 5", ("5 bits", "Use 2, 3, 4, 8 or 16.")),
        ("model --bits four", ("--bits", "Use 2, 3, 4, 8, 16 or auto.")),
        ("model --embedding-bits 5", ("5 embedding bits", "Use 2, 3, 4, 8 or 16.")),
        ("model --method gtpq", ("'gtpq'", "Did you mean 'gptq'?")),
        ("model --method magic", ("'magic'", "Use one of: auto, rtn, mse, hqq")),
        ("model --method rnt", ("'rnt'", "Did you mean 'rtn'?")),
        ("model --format onxx", ("'onxx'", "It takes onnx")),
        ("model --accuracy-level 3", ("accuracy level 3", "Use 4")),
        ("model --group-size 7", ("group size of 7", "power of two")),
        ("model --group-size -64", ("group size of -64", "power of two")),
        ("model --max-memory nonsense", ("'nonsense' is not a size", "Write it as 20MB")),
        ("model --max-size 2XB", ("'2XB' is not a size", "Write it as 20MB")),
        ("model --max-drift nan", ("drift limit of nan", "Give a number")),
        ("model --max-drift -1", ("drift limit of -1", "Give a number")),
        ("model --task text-generatoin", ("Did you mean 'text-generation'?",)),
        ("model --evaluation no-such.txt", ("no-such.txt",)),
        ("model --evaluation model", ("--evaluation", "model")),
        ("model --output model", ("exists", "--force")),
        ("model --output model --force", ("no edgeq bundle", "Remove it yourself or name another.")),
        ("model --output model/config.json", ("exists", "--force")),
        ("model --output model/config.json --force", ("no edgeq bundle", "Remove it yourself")),
        ("model --output model/config.json/new/bundle", ("cannot be created", "Choose another --output.")),
        ("model --output /proc/edgeq-bundle", ("cannot be created", "Choose another --output.")),
        (f"model --output new/{'n' * 250}", ("cannot be created", "Choose another --output.")),
        (f"model --output new/{'n' * 300}", ("cannot be created", "Choose another --output.")),
    ],
)
def test_a_wrong_export_is_exit_2(refused: Refused, arguments: str, words: tuple[str, ...]) -> None:
    refused("export", *arguments.split(), code=2, words=words)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("quantize model --output model", 2, ("not a store", "Name another --output.")),
        ("quantize model --output model/config.json", 2, ("model/config.json", "Choose another --output.")),
        (f"quantize model --output new/{'n' * 300}", 2, ("cannot be created", "Choose another --output.")),
        ("quantize model --output new/store --target andrid", 2, ("Did you mean 'android'?",)),
        ("lower model --output bundle", 2, ("There is no store at model.", "edgeq quantize")),
        ("validate model", 4, ("model has no edgeq.json", "Export the bundle again.")),
        ("validate nowhere", 2, ("no bundle at nowhere", "edgeq export")),
        ("run nowhere", 2, ("nowhere is not a directory here", "Check the path")),
        ("inspect nowhere", 2, ("nowhere is not a directory here", "Check the path")),
        ("targets rpi5-4g", 2, ("Did you mean 'rpi5-4gb'?",)),
    ],
)
def test_the_other_verbs_refuse_too(refused: Refused, arguments: str, code: int, words: tuple[str, ...]) -> None:
    refused(*arguments.split(), code=code, words=words)


def test_text_to_measure_with_must_be_text(refused: Refused, place: Path) -> None:
    (place / "text.txt").write_bytes(b"\xff\xfe\x00\x80" * 100)
    refused("export", "model", "--evaluation", "text.txt", code=2, words=("text.txt", "UTF-8"))


@pytest.mark.parametrize(
    "variables",
    [{"HF_HUB_OFFLINE": "1"}, {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}],
    ids=["offline", "dead-proxy"],
)
def test_a_hub_id_without_a_network_is_exit_2(place: Path, variables: dict[str, str]) -> None:
    ended = edgeq("export", "nobody/nothing", cwd=place, variables={"HF_HOME": str(place / "model"), **variables})
    assert ended.returncode == 2
    assert_one_line(ended.stderr, "nobody/nothing is not a directory here", "Check the name and the network")
    assert {path.name for path in place.iterdir()} == {"model"}


def test_a_process_ends_with_exit_4(place: Path) -> None:
    truncate(place / "model")
    before = contents(place)
    ended = edgeq("export", "model", "--output", "bundle", cwd=place)
    assert ended.returncode == 4
    assert ended.stdout == ""
    assert_one_line(ended.stderr, "is not a whole safetensors file", "Copy or download the model again.")
    assert contents(place) == before


def without_permission(folder: Path) -> tuple[str, ...]:
    """For the root user, a process without the right to pass over permissions."""
    folder.chmod(0o555)
    drop = "-dac_override,-dac_read_search"
    return ("setpriv", "--bounding-set", drop, "--inh-caps", drop) if os.geteuid() == 0 else ()


def mounted_read_only(folder: Path) -> tuple[str, ...]:
    prefix = mount_prefix(f"mount -t tmpfs -o ro edgeq '{folder}'")
    assert prefix is not None
    return prefix


UNWRITABLE = [without_permission] + [mounted_read_only] * (mount_prefix("true") is not None)


@pytest.mark.parametrize("unwritable", UNWRITABLE)
def test_an_output_that_may_not_be_written_is_exit_2(
    place: Path, unwritable: Callable[[Path], tuple[str, ...]]
) -> None:
    folder = place / "folder"
    folder.mkdir()
    ended = edgeq("export", "model", "--output", "folder/bundle", cwd=place, prefix=unwritable(folder))
    assert ended.returncode == 2
    assert_one_line(ended.stderr, "folder/bundle may not be written", "Choose another --output.")
    assert list(folder.iterdir()) == []
