"""A model is known by what it is, wherever it lies."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from raysparsex.calibration import identity as module
from raysparsex.calibration.identity import (
    identity_digest,
    identity_of,
    model_folder,
    model_identity,
    rope_of,
    weights_digest,
)
from raysparsex.errors import InvalidConfig
from raysparsex.models import embedded_model

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def write_safetensors(path: Path, payload: bytes) -> None:
    size = len(payload)
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + payload)


def write_model(folder: Path, payload: bytes = b"x" * 100, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    write_safetensors(folder / "model.safetensors", payload)
    return folder


def test_a_moved_model_is_the_same_one(tmp_path: Path) -> None:
    here = write_model(tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "there" / "other-name")
    assert identity_of(here, "float32") == identity_of(there, "float32")


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": b"y" * 100},
        {"payload": b"x" * 101},
        {"num_hidden_layers": 3},
        {"architectures": ["MistralForCausalLM"]},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    ],
)
def test_whatever_changes_answers_changes_the_identity(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    one = identity_of(write_model(tmp_path / "one"), "float32")
    other = identity_of(write_model(tmp_path / "other", **changes), "float32")
    assert one != other
    assert identity_digest(one) != identity_digest(other)


def test_the_dtype_belongs_to_the_identity(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    assert identity_of(folder, "bfloat16") != identity_of(folder, "float32")
    assert identity_of(folder, "torch.bfloat16") == identity_of(folder, "bfloat16")


def test_other_files_of_the_folder_do_not_matter(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    before = identity_of(folder, "float32")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "raysparsex-profile.json").write_text("{}")
    assert identity_of(folder, "float32") == before


def test_a_large_file_is_sampled_from_its_header_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(module, "SAMPLED", 1024)
    payload = bytearray(100_000)
    folder = write_model(tmp_path, bytes(payload))
    before = weights_digest(folder)
    size = (folder / "model.safetensors").stat().st_size
    read = sum(map(len, module._sampled(folder / "model.safetensors", 1024)))
    assert read < size / 20
    for place in (0, 99_999):
        changed = bytearray(payload)
        changed[place] = 1
        write_safetensors(folder / "model.safetensors", bytes(changed))
        assert weights_digest(folder) != before


def test_old_checkpoints_are_known_as_well(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    before = weights_digest(folder)
    (folder / "pytorch_model.bin").write_bytes(b"other")
    assert weights_digest(folder) != before


def test_every_shard_counts(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    write_safetensors(folder / "model-00002-of-00002.safetensors", b"a")
    before = weights_digest(folder)
    write_safetensors(folder / "model-00002-of-00002.safetensors", b"b")
    assert weights_digest(folder) != before


@pytest.mark.parametrize(
    ("config", "rope"),
    [
        ({"rope_theta": 5.0}, {"rope_type": "default", "rope_theta": 5.0}),
        (
            {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0},
        ),
        (
            {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 6.0}},
            {"rope_type": "default", "rope_theta": 6.0},
        ),
        (
            {"rope_theta": 5.0, "partial_rotary_factor": 0.5, "rope_scaling": None},
            {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.5},
        ),
    ],
)
def test_configs_of_any_age_say_the_same(config: dict[str, Any], rope: dict[str, Any]) -> None:
    assert rope_of(config) == rope


def test_the_embedded_model_is_found_by_its_name() -> None:
    found = model_identity("raysparsex-tiny", "float32")
    assert found == identity_of(embedded_model(), "float32")
    assert found is not None
    assert found.layers == 8


def test_a_name_that_is_not_in_the_local_cache_has_no_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert model_folder("nobody/has-this-model") is None
    assert model_identity("nobody/has-this-model", "float32") is None
    assert model_folder(str(tmp_path / "missing")) is None


def test_a_folder_without_weights_or_config_is_no_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidConfig, match="no weights"):
        identity_of(folder, "float32")
    assert model_identity(str(folder), "float32") is None
    (folder / "config.json").unlink()
    with pytest.raises(InvalidConfig, match=r"config\.json"):
        identity_of(folder, "float32")
