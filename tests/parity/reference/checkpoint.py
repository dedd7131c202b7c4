"""Reads the files of a Hugging Face folder into float32 arrays: safetensors, shards, and pytorch_model.bin."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
TORCH_STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64"}
TORCH_STORAGES |= {"LongStorage": "I64", "IntStorage": "I32", "ByteStorage": "U8", "BoolStorage": "U8"}


def to_float32(values: np.ndarray, kind: str) -> np.ndarray:
    """Widen to float32; bfloat16 is the upper half of a float32."""
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Layout: the header's length (8 bytes), a JSON header, the tensors' bytes."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = memoryview(content)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[begin:end], SAFETENSORS_TYPES[entry["dtype"]])
        tensors[name] = to_float32(values, entry["dtype"]).reshape(entry["shape"])
    return tensors


class TorchUnpickler(pickle.Unpickler):
    """Understands a dict of plain tensors and nothing else, so that a file cannot run code."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.rebuild
        if module == "torch" and name in TORCH_STORAGES:
            return TORCH_STORAGES[name]
        raise pickle.UnpicklingError(f"not a tensor: {module}.{name}")

    def persistent_load(self, key: Any) -> np.ndarray:
        _, kind, number, _, _ = key
        values = np.frombuffer(self.archive.read(f"{self.root}/data/{number}"), SAFETENSORS_TYPES[kind])
        return to_float32(values, kind)

    @staticmethod
    def rebuild(
        storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> np.ndarray:
        strides = [4 * step for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """A file written by torch.save since version 1.6: a zip archive with one pickle and one file per storage."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        return dict(TorchUnpickler(archive, root).load())


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and all tensors of a folder."""
    config = json.loads((folder / "config.json").read_text())
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors |= read_safetensors(path)
    for path in sorted(folder.glob("pytorch_model*.bin")):
        tensors |= read_torch(path)
    return config, tensors
