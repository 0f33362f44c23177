"""A peer: Triton serving an ONNX file with its Python backend. Runs in an environment of its own, `.venv-tritonserver`.

    python -m benchmarks.triton_server MODEL_FILE NAME PORT [--batched]

NVIDIA publishes the binary and its Python backend in the wheel of `nvidia-pytriton`, of which nothing else is used: Triton is run
directly, on a repository with `triton_model.py`. No REST, no metrics, no log for each call: the settings for the least CPU.
`--batched` adds what an operator would for small models: a dynamic batcher without a delay.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import onnxruntime as ort

MODEL = Path(__file__).with_name("triton_model.py")
VERSION = "1"
LIBRARIES = "nvidia_pytriton.libs"
MOST_ROWS = 64  # of a batch
DATATYPES = {"tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(int64)": "TYPE_INT64"}


def write_model(root: Path, file: str, name: str, *, batched: bool) -> None:
    """Make a repository of this one model."""
    folder = root / name / VERSION
    folder.mkdir(parents=True)
    shutil.copy(MODEL, folder / "model.py")
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    tensors = [*_tensors("input", session.get_inputs(), batched), *_tensors("output", session.get_outputs(), batched)]
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        f"max_batch_size: {MOST_ROWS if batched else 0}",
        *(["dynamic_batching { }"] if batched else []),
        *tensors,
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        f'parameters {{ key: "file" value: {{ string_value: "{file}" }} }}',
    ]
    (root / name / "config.pbtxt").write_text("\n".join(lines) + "\n")


def write_backend(root: Path) -> Path:
    """The folder of backends, with the stub for this Python; returns the binary beside which they lie in the wheel."""
    triton = Path(str(distribution("nvidia-pytriton").locate_file("pytriton/tritonserver")))
    stubs = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = root / "python"
    folder.mkdir(parents=True)
    for file in (*(triton / "backends" / "python").glob("*triton_python*.*"), *stubs.iterdir()):
        shutil.copy(file, folder)
    (folder / "triton_python_backend_stub").chmod(0o755)
    return triton / "bin" / "tritonserver"


def main(file: str, name: str, port: str, *options: str) -> int:
    """Triton's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "models", str(Path(file).resolve()), name, batched="--batched" in options)
        binary = write_backend(Path(folder) / "backends")
        # The stub is a program of its own that loads this Python, and the model this environment's packages.
        libraries = f"{sysconfig.get_config_var('LIBDIR')}:{distribution('nvidia-pytriton').locate_file(LIBRARIES)}"
        own = {"PYTHONPATH": sysconfig.get_path("purelib"), "LD_LIBRARY_PATH": libraries}
        command = [
            str(binary), f"--model-repository={folder}/models", f"--backend-directory={folder}/backends",
            "--grpc-address=127.0.0.1", f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false",
            f"--backend-config=python,shm-region-prefix-name=infermesh-{port}-", "--exit-timeout-secs=5",
        ]  # fmt: skip
        triton = subprocess.Popen(command, env=os.environ | own)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: triton.send_signal(number))
        return triton.wait()


def _tensors(kind: str, tensors, batched: bool):
    for tensor in tensors:
        dims = [d if isinstance(d, int) else -1 for d in tensor.shape][batched:]
        # A dimension there must be; a vector of one number for each row is said with a shape that has none.
        shape = f"dims: {dims}" if dims else "dims: [1] reshape { shape: [] }"
        yield f'{kind} [ {{ name: "{tensor.name}" data_type: {DATATYPES[tensor.type]} {shape} }} ]'


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
