"""Why ONNX Runtime can't load a model file, in words for the index: what is wrong, and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from services.predictor.execution.arena import out_of_memory

__all__ = ["load_reason"]

MAX_CHARACTERS = 500

_KNOWN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], str]], ...] = (
    (
        re.compile(r"Protobuf parsing failed"),
        lambda m, file: f"{file} is no ONNX model, or a part of one: corrupt, or copied incompletely",
    ),
    (
        re.compile(r"No graph was found in the protobuf"),
        lambda m, file: f"{file} holds no graph: expected an ONNX model",
    ),
    (
        re.compile(r"Opset (\d+) is under development.*?Current official support for domain (\S*) is till opset (\d+)"),
        lambda m, file: (
            f"{file} needs opset {m[1]} of domain {m[2]}, this ONNX Runtime knows {m[3]}: export it with opset {m[3]} or less"
        ),
    ),
    (
        re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)"),
        lambda m, file: (
            f"{file} has IR version {m[1]}, this ONNX Runtime reads up to {m[2]}: save it with that or less"
        ),
    ),
    (
        re.compile(r"No Op registered for (\S+) with domain_version of (\d+)"),
        lambda m, file: f"{file} uses operator {m[1]}, which opset {m[2]} does not have",
    ),
    (
        re.compile(r"Fatal error: (\S*?)\(.*?\) is not a registered function/op"),
        lambda m, file: (
            f"{file} uses operator {m[1]}, which this ONNX Runtime does not have: expected standard operators"
        ),
    ),
    (
        re.compile(r"No opset import for domain '([^']*)'"),
        lambda m, file: f"{file} uses operators of domain {m[1]} and does not say of which opset",
    ),
    (
        re.compile(r"Could not find an implementation for (\S+)\((\d+)\)"),
        lambda m, file: (
            f"{file} uses operator {m[1]} of opset {m[2]} with types that no execution provider in use has it for"
        ),
    ),
    (
        re.compile(r'initializer: (\S+?)\. .*External data path does not exist: "([^"]*)"'),
        lambda m, file: f"weight {m[1]} of {file} is in {Path(m[2]).name}, which is not there: put it beside {file}",
    ),
    (
        re.compile(r"initializer: (\S+?)\. .*(?:escapes|Absolute path not allowed)"),
        lambda m, file: f"weight {m[1]} of {file} is in a file outside the version's folder: put it beside {file}",
    ),
    (
        re.compile(r"out of bounds|External initializer.*(?:size|offset)|read.*external.*fail", re.IGNORECASE),
        lambda m, file: f"an external data file of {file} is shorter than the model says: copied incompletely?",
    ),
)
_SOURCE = re.compile(r"/onnxruntime_src/\S+ .*?\) (?=[A-Z])")  # where in ONNX Runtime: says nothing to a reader


def load_reason(error: Exception, path: Path, memory_limit: int = 0) -> str:
    """The reason, on one line, without a path of this machine: the index is read from outside."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"{path.name} does not fit into this machine's memory"
    if memory := out_of_memory(text, memory_limit):
        return f"{path.name} does not fit into memory: {memory}"
    for pattern, words in _KNOWN:
        if match := pattern.search(text):
            return words(match, path.name)[:MAX_CHARACTERS]
    text = _SOURCE.sub("", text).replace(f"{path.parent}/", "")
    return f"{type(error).__name__}: {text}"[:MAX_CHARACTERS]
