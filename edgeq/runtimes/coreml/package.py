"""A saved `.mlpackage`: its functions, what they take, and the files of weights, read on any system."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.files import contained
from edgeq.runtimes.generation import first_line

Size = int | None
"""Of an axis; None where it is free."""


def import_coremltools() -> Any:  # noqa: ANN401 - the package has no types
    """The `coremltools` module, without its warnings. Raises RuntimeUnavailableError where it is not installed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of every version of torch that it was not tried with
    try:
        import coremltools
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"coremltools cannot be imported ({error}).", remedy="Install it: pip install coremltools."
        ) from error
    finally:
        logging.disable(disabled)
    return coremltools


@dataclass(frozen=True, kw_only=True)
class Package:
    """An opened package. `inputs`: the shape of each input by function and name; `states`: shapes of the states."""

    path: Path
    spec: Any
    weights: Path
    inputs: dict[str, dict[str, tuple[Size, ...]]]
    states: dict[str, tuple[int, ...]]

    @property
    def weights_bytes(self) -> int:
        """Of the files of weights and of the program, as stored."""
        stored = sum(path.stat().st_size for path in self.weights.glob("*") if path.is_file())
        return stored + int(self.spec.ByteSize())

    def function(self, name: str) -> Any:  # noqa: ANN401 - coremltools has no types
        """A function of the program with its weights, as coremltools reads it. Raises CorruptInputError."""
        import_coremltools()
        from coremltools.converters.mil.frontend.milproto.load import load_mil_proto
        from coremltools.proto import MIL_pb2

        if name not in self.inputs:
            raise corrupt(self.path, f"it has no function {name!r}")
        program = MIL_pb2.Program(version=1)
        program.functions[name].CopyFrom(self.spec.mlProgram.functions[name])
        try:
            loaded = load_mil_proto(program, self.spec.specificationVersion, str(self.weights))
        except MemoryError:
            raise
        except Exception as error:  # whatever coremltools and its reader of weights say of damaged bytes
            raise corrupt(self.path, f"{name!r} does not load: {first_line(error)}") from error
        return loaded.functions[name]


def open_package(path: Path) -> Package:
    """Read a package's program, not its weights.

    Raises CorruptInputError, UnsafeInputError, RuntimeUnavailableError.
    """
    import_coremltools()
    model = _model_path(path)
    spec = _read_spec(path, model)
    functions = spec.mlProgram.functions
    inputs: dict[str, dict[str, tuple[Size, ...]]] = {}
    states: dict[str, tuple[int, ...]] = {}
    for name, function in functions.items():
        inputs[name] = {}
        for item in function.inputs:
            if item.type.HasField("stateType"):
                shape = _shape(item.type.stateType.wrappedType.tensorType)
                states[item.name] = tuple(size for size in shape if size is not None)
            else:
                inputs[name][item.name] = _shape(item.type.tensorType)
    return Package(path=path, spec=spec, weights=model.parent / "weights", inputs=inputs, states=states)


def corrupt(path: Path, why: str) -> CorruptInputError:
    """What is wrong with a package, in one sentence."""
    return CorruptInputError(f"{path.name} is damaged: {why}.", remedy="Export the bundle again.")


def _model_path(package: Path) -> Path:
    try:
        manifest = json.loads((package / "Manifest.json").read_bytes())
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        relative = str(entry["path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise corrupt(package, "its manifest is missing or names no model") from error
    return contained(package / "Data", relative)


def _read_spec(package: Path, model: Path) -> Any:  # noqa: ANN401 - protobuf's messages have no type stubs
    from coremltools.proto import Model_pb2

    try:
        spec = Model_pb2.Model.FromString(model.read_bytes())
    except Exception as error:  # protobuf's own error type has no type stubs
        raise corrupt(package, f"its program cannot be read ({first_line(error)})") from error
    if spec.WhichOneof("Type") != "mlProgram" or not spec.mlProgram.functions:
        raise corrupt(package, "it holds no ML program")
    return spec


def _shape(tensor: Any) -> tuple[Size, ...]:  # noqa: ANN401 - as above
    return tuple(
        int(dimension.constant.size) if dimension.HasField("constant") else None for dimension in tensor.dimensions
    )
