"""Remakes every sample: `python -m samples.make [FOLDER]`, by default over the ones that are checked in."""

import argparse
from pathlib import Path

from samples.make import breast_cancer, credit, fraud, iris
from samples.make.artifacts import write_json

CHECKED_IN = Path(__file__).parents[1]


def main() -> None:
    """Writes all artefacts; fails, naming the model, where ONNX Runtime does not answer as scikit-learn does."""
    parser = argparse.ArgumentParser(prog="python -m samples.make", description="Remake the sample models.")
    parser.add_argument("folder", nargs="?", type=Path, default=CHECKED_IN, help="where to write (default: samples/)")
    folder = parser.parse_args().folder

    write_json(
        folder / "metrics.json", {model.NAME: model.make(folder) for model in (iris, breast_cancer, fraud, credit)}
    )


if __name__ == "__main__":
    main()
