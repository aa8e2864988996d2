"""Quantized weights in a package: coremltools reads the same numbers back, and what cannot be held is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
import pytest
from coremltools.converters.mil.frontend.milproto.load import load

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.coreml.constants import padded_inputs
from tests.lowering.coreml.packages import CODEBOOKS, SCHEMES, product_package, random_tensor, tied_package


def functions_of(package: Path) -> dict[str, Any]:
    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    functions: dict[str, Any] = load(spec, spec.specificationVersion, file_weights_dir=model.weights_dir).functions
    return functions


def weight_of(function: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - coremltools has no types
    """The dense weight, decompressed by coremltools."""
    weight: npt.NDArray[Any] = _decompressed(next(op for op in function.operations if op.op_type == "linear").weight)
    return weight


def _decompressed(value: Any) -> Any:  # noqa: ANN401 - coremltools has no types
    """Constant expressions of constant expressions are read from the inside out."""
    operation = value.op
    if operation.op_type == "const":
        return value.val
    if operation.op_type == "constexpr_lut_to_dense" or operation.data.op.op_type == "const":
        return operation.materialized_val_inference()
    return operation.decompress(_decompressed(operation.data), operation.scale.val, operation.offset)


@pytest.mark.parametrize("scheme", SCHEMES + CODEBOOKS, ids=Scheme.label)
def test_coremltools_decompresses_the_same_weight(scheme: Scheme, tmp_path: Path) -> None:
    tensor = random_tensor(scheme)
    package, _ = product_package(tmp_path, tensor)
    weight = weight_of(functions_of(package)["main"])
    assert weight.dtype == np.float16
    np.testing.assert_array_equal(weight[:, : tensor.shape[1]], tensor.dequantize().astype(np.float16))


def test_a_last_group_that_is_short_is_padded_beside_its_input(tmp_path: Path) -> None:
    scheme = Scheme(bits=4, group_size=32, scale_dtype="float16")
    package, _ = product_package(tmp_path, random_tensor(scheme, inputs=40))
    kinds = Counter(operation.op_type for operation in functions_of(package)["main"].operations)
    assert (padded_inputs(scheme, 40), kinds["pad"], kinds["linear"]) == (64, 1, 1)


def test_codes_take_their_own_bits(tmp_path: Path) -> None:
    """No float copy beside them: 4 bits a code, 16 a scale, and 64 bytes of header for each."""
    tensor = random_tensor(Scheme(bits=4, group_size=32, symmetric=True, scale_dtype="float16"), 256, 512)
    package, _ = product_package(tmp_path, tensor)
    size = (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    packed = tensor.scheme.stored_bytes(*tensor.shape)
    assert packed <= size <= packed + 256 * 2 + 1024


def test_a_table_and_a_product_share_their_weight(tmp_path: Path) -> None:
    package, _ = tied_package(tmp_path, random_tensor(Scheme(bits=8, group_size=16, scale_dtype="float16")))
    kinds = Counter(operation.op_type for operation in functions_of(package)["main"].operations)
    assert (kinds["constexpr_blockwise_shift_scale"], kinds["gather"], kinds["linear"]) == (1, 1, 1)


def test_functions_share_the_bytes(tmp_path: Path) -> None:
    tensor = random_tensor(SCHEMES[0], 64, 128)
    sizes = []
    for index, functions in enumerate([("main",), ("one", "two")]):
        package, _ = product_package(tmp_path / str(index), tensor, functions=functions)
        sizes.append((package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size)
        assert set(functions_of(package)) == set(functions)
    assert sizes[0] == sizes[1]


def test_scales_that_float16_does_not_hold_are_refused(tmp_path: Path) -> None:
    exact = random_tensor(SCHEMES[0])
    for wrong in (np.nextafter(np.float32(1), np.float32(2)), np.float32(1e6)):
        tensor = QuantizedTensor(
            scheme=exact.scheme, codes=exact.codes, scales=np.full_like(exact.scales, wrong), zero_points=None
        )
        with pytest.raises(UnsupportedModelError, match=r"layer\.weight has scales .* float16.*--format coreml"):
            product_package(tmp_path, tensor)


def test_the_neural_engine_runs_channels_but_no_blocks(tmp_path: Path) -> None:
    blocks, channels = (Scheme(bits=4, group_size=size, scale_dtype="float16") for size in (16, None))
    with pytest.raises(UnsupportedModelError, match=r"Neural Engine.*one scale per output channel"):
        product_package(tmp_path / "blocks", random_tensor(blocks), unit="neural_engine")
    package, _ = product_package(tmp_path / "channels", random_tensor(channels), unit="neural_engine")
    assert package.is_dir()
