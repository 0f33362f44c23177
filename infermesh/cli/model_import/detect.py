"""Which library wrote a file, told by its content: a name can be anything."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from infermesh.cli.failure import Failure

__all__ = ["Format", "format_of"]

Format = Literal["sklearn", "skops", "xgboost", "lightgbm", "onnx"]

HEAD_BYTES = 4096

_PICKLES = {
    b"\x80\x02": "pickle",
    b"\x80\x03": "pickle",
    b"\x80\x04": "pickle",
    b"\x80\x05": "pickle",
    b"ZF": "joblib 0.9, compressed",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_OTHERS = {
    b"\x89HDF": ("a Keras (HDF5) file", "convert it with tf2onnx, then import the .onnx file"),
    b"binf": (
        "an XGBoost file of the old binary form",
        "load it with an XGBoost before 3.1 and save it as .json or .ubj",
    ),
    b"bs64": (
        "an XGBoost file of the old binary form",
        "load it with an XGBoost before 3.1 and save it as .json or .ubj",
    ),
    b"CBM1": ("a CatBoost file", "save it from CatBoost with format='onnx', then import the .onnx file"),
}


def format_of(file: Path) -> Format:
    """The format of a model file. Raises Failure when it can't be read, or is of none that can be imported."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except OSError as error:
        raise Failure(f"{file}: can't be read: {error.strerror}", status=2) from None
    if not head:
        raise Failure(f"{file}: the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return _of_archive(file)
    for start, (what, hint) in _OTHERS.items():
        if head.startswith(start):
            raise Failure(f"{file}: this is {what}", hint=hint)
    if head.startswith(b"tree\n") or head.startswith(b"tree\r\n"):
        return "lightgbm"
    if head.lstrip()[:1] == b"{":
        return _of_json(file, head)
    if any(head.startswith(start) for start in _PICKLES):
        return "sklearn"
    if head[0] == 0x08 or file.suffix == ".onnx":  # ModelProto.ir_version = 1, a varint, which every writer puts first
        return "onnx"
    raise Failure(
        f"{file}: of no format that can be imported: expected a joblib, pickle or skops file, XGBoost's .json or .ubj, "
        "LightGBM's .txt, or ONNX",
        hint="--format says what it is",
    )


def _of_json(file: Path, head: bytes) -> Format:
    if b"learner" in head:  # in UBJSON too, names are plain text
        return "xgboost"
    if b'"tree_info"' in head or b'"num_tree_per_iteration"' in head:
        raise Failure(
            f"{file}: this is LightGBM's dump_model, which LightGBM itself can't read", hint="use Booster.save_model"
        )
    raise Failure(f'{file}: JSON, but no XGBoost model: it has no "learner"', hint="save it by Booster.save_model")


def _of_archive(file: Path) -> Format:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise Failure(f"{file}: a damaged archive: {error}") from None
    if "schema.json" in names:
        return "skops"
    if any(name.endswith("data.pkl") for name in names):
        raise Failure(
            f"{file}: this is a PyTorch file", hint="export it with torch.onnx.export, then import the .onnx file"
        )
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        raise Failure(f"{file}: this is a Keras file", hint="export it with model.export(format='onnx')")
    raise Failure(f"{file}: an archive, but not of skops: it has no schema.json")
