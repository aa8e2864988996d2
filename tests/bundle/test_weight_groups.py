"""Which weights a bundle's bytes belong to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.weight_groups import group_of, weight_groups
from edgeq.core.artifact import FileEntry, WeightLocation
from tests.bundle.samples import LOCATION, sealed_bundle


@pytest.mark.parametrize(
    ("weight", "group"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.embed_tokens.weight (table)", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("model.layers.0.self_attn.q_proj.weight", "query, key, value"),
        ("model.layers.11.self_attn.k_proj.weight", "query, key, value"),
        ("transformer.h.0.attn.c_attn.weight", "query, key, value"),
        ("encoder.layer.3.attention.self.query.weight", "query, key, value"),
        ("gpt_neox.layers.0.attention.query_key_value.weight", "query, key, value"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "query, key, value"),
        ("model.layers.0.self_attn.o_proj.weight", "attention output"),
        ("transformer.h.0.attn.c_proj.weight", "attention output"),
        ("encoder.layer.3.attention.output.dense.weight", "attention output"),
        ("gpt_neox.layers.0.attention.dense.weight", "attention output"),
        ("encoder.block.0.layer.0.SelfAttention.o.weight", "attention output"),
        ("model.layers.0.mlp.gate_proj.weight", "gate and up"),
        ("model.layers.0.mlp.up_proj.weight", "gate and up"),
        ("transformer.h.0.mlp.c_fc.weight", "gate and up"),
        ("encoder.layer.3.intermediate.dense.weight", "gate and up"),
        ("model.layers.0.block_sparse_moe.experts.1.w1.weight", "gate and up"),
        ("model.layers.0.mlp.down_proj.weight", "down"),
        ("transformer.h.0.mlp.c_proj.weight", "down"),
        ("encoder.layer.3.output.dense.weight", "down"),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", "down"),
        ("model.layers.0.mamba.x_thing.weight", "other linear"),
    ],
)
def test_a_weight_is_known_by_its_name(weight: str, group: str) -> None:
    assert group_of(weight) == group


def test_groups_add_up_to_the_model_files(tmp_path: Path) -> None:
    manifest = read_manifest(sealed_bundle(tmp_path / "work", tmp_path / "bundle"))
    wide = dataclasses.replace(LOCATION, shape=(64, 64), rows=(0, 64))
    weights: dict[str, WeightLocation] = {
        "model.layers.0.self_attn.q_proj.weight": wide,
        "model.layers.0.self_attn.k_proj.weight": dataclasses.replace(wide, bits=2, container_bits=4),
        "model.embed_tokens.weight": dataclasses.replace(wide, bits=8, symmetric=False),
    }
    files = (
        FileEntry(path=manifest.model, bytes=1000, sha256="a" * 64),
        FileEntry(path=f"{manifest.model}_data", bytes=20_000, sha256="b" * 64),
        FileEntry(path="README.md", bytes=5000, sha256="c" * 64),
    )
    groups = weight_groups(dataclasses.replace(manifest, weights=weights, files=files))
    assert [group.name for group in groups] == ["embedding", "query, key, value", "rest"]
    scales = 64 * 2 * 4
    assert groups[0].bytes == 64 * 64 + scales + 64 * 2  # 8-bit zero points
    assert groups[1].bytes == 2 * (64 * 64 // 2 + scales)  # both in 4 bits a code
    assert (groups[1].tensors, groups[1].parameters) == (2, 2 * 64 * 64)
    assert groups[1].schemes == {"int4 g32 sym": 1, "int2 g32 sym": 1}
    assert sum(group.bytes for group in groups) == 21_000


def test_a_bundle_that_places_no_weight_has_no_groups(tmp_path: Path) -> None:
    manifest = read_manifest(sealed_bundle(tmp_path / "work", tmp_path / "bundle"))
    assert weight_groups(dataclasses.replace(manifest, weights={})) == ()
