"""Which model it is: config.json and a digest of the weights, never the path.

The digest covers each file's size, its beginning (for safetensors: the header, which names every
tensor) and chunks at even distances, so that 100 GB take seconds. Two models that were trained
apart differ in nearly every byte, so chunks tell them apart; a few damaged bytes may lie between
chunks, and finding those is the business of checksums elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from raysparsex.calibration.profile import ModelIdentity
from raysparsex.errors import InvalidConfig
from raysparsex.models import EMBEDDED, embedded_model

CHUNK = 1 << 16
SAMPLED = 64 << 20
"""Bytes read of all weight files together; smaller models are read whole."""
LONGEST_HEADER = 16 << 20

_CONFIG_ROPE = ("partial_rotary_factor", "rope_theta")
"""Keys of older configs that belong to the RoPE and stand beside its mapping."""


def model_identity(model: str, dtype: str) -> ModelIdentity | None:
    """The identity of a folder or a Hugging Face name; None when its files are not at hand."""
    folder = model_folder(model)
    if folder is None:
        return None
    try:
        return identity_of(folder, dtype)
    except InvalidConfig:
        return None


def model_folder(model: str) -> Path | None:
    """Where the files are: a folder, the embedded model, or the local Hugging Face cache."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model == EMBEDDED:
        return embedded_model()
    return _cached_snapshot(model)


def identity_of(folder: Path, dtype: str) -> ModelIdentity:
    """Read config.json and sample the weights. Raises InvalidConfig when one is not there."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(
            "model", f"{path} cannot be read ({error})", "a model folder"
        ) from error
    return identity_from(config, weights_digest(folder), dtype)


def identity_from(config: Mapping[str, Any], weights: str, dtype: str) -> ModelIdentity:
    """The identity, from a config that is already read. Raises InvalidConfig without layers."""
    text = config.get("text_config") or config
    layers = text.get("num_hidden_layers", text.get("n_layer"))
    if not isinstance(layers, int):
        raise InvalidConfig("model", "config.json names no layers", "a decoder-only model")
    return ModelIdentity(
        architecture=str((config.get("architectures") or [config.get("model_type")])[0]),
        layers=layers,
        rope=rope_of(text),
        dtype=dtype.removeprefix("torch."),
        weights=weights,
    )


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE parameters, in today's words whatever the age of the config."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "type" in rope:
        rope.setdefault("rope_type", rope["type"])
        del rope["type"]
    for key in _CONFIG_ROPE:
        if config.get(key) is not None:
            # The mapping wins, as in transformers.
            rope.setdefault(key, config[key])
    rope.setdefault("rope_type", "default")
    return rope


def identity_digest(identity: ModelIdentity) -> str:
    """A name for a file that belongs to this model."""
    text = json.dumps(identity.model_dump(mode="json"), sort_keys=True)
    return xxhash.xxh3_128_hexdigest(text.encode())


def weights_digest(folder: Path) -> str:
    """Digest of the weight files. Raises InvalidConfig when there are none."""
    files = _weight_files(folder)
    if not files:
        problem = f"no weights in {folder}"
        raise InvalidConfig("model", problem, "a folder with *.safetensors or *.bin files")
    digest = xxhash.xxh3_128()
    for file in files:
        for part in _sampled(file, SAMPLED // len(files)):
            digest.update(part)
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order; of several formats, the one that vLLM takes."""
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _sampled(path: Path, most: int) -> Iterator[bytes]:
    size = path.stat().st_size
    yield size.to_bytes(8, "little")
    with path.open("rb") as file:
        if size <= most:
            while part := file.read(1 << 20):
                yield part
            return
        start = _header_end(path, file.read(8)) if path.suffix == ".safetensors" else CHUNK
        file.seek(0)
        yield file.read(start)
        count = max(2, most // CHUNK)
        for index in range(count):
            file.seek(start + (size - start - CHUNK) * index // (count - 1))
            yield file.read(CHUNK)


def _header_end(path: Path, first: bytes) -> int:
    """A safetensors file begins with the length of its header."""
    end = 8 + int.from_bytes(first, "little")
    if end > min(LONGEST_HEADER, path.stat().st_size):
        raise InvalidConfig("model", f"{path} is not a safetensors file", "a whole model folder")
    return end


def _cached_snapshot(name: str) -> Path | None:
    """A Hugging Face name's folder in the local cache; nothing is fetched."""
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return None
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
