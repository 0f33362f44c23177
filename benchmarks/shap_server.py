"""A peer: shap's TreeExplainer in process. Runs in an environment of its own, `.venv-shap`; only shap, numpy and the standard
library are imported.

Reads trees, rows and background from the npz file that is named. For each line of its input, `path_dependent` or
`interventional`, explains all rows once and writes the seconds that it took, wall and CPU; for `save`, writes the values of both
to the file beside it.
"""

import sys
import time
from pathlib import Path

import numpy as np
import shap


def main(path: str) -> None:
    held = np.load(path)
    ends = np.cumsum(held["sizes"])
    names = ("children_left", "children_right", "features", "thresholds", "values", "node_sample_weight")
    trees = []
    for start, end in zip(ends - held["sizes"], ends, strict=True):
        tree = {name: held[name][start:end] for name in names}
        tree["children_default"] = tree["children_right"]
        tree["values"] = tree["values"].reshape(-1, 1)
        trees.append(tree)
    model = {"trees": trees, "internal_dtype": np.float64, "input_dtype": np.float64, "objective": None}
    model |= {"tree_output": "raw_value", "base_offset": float(held["base"])}
    explainers = {
        "path_dependent": shap.TreeExplainer(model, feature_perturbation="tree_path_dependent"),
        "interventional": shap.TreeExplainer(model, held["background"], feature_perturbation="interventional"),
    }
    print(shap.__version__, flush=True)
    for line in sys.stdin:
        asked = line.strip()
        if asked == "save":
            values = {name: each.shap_values(held["rows"], check_additivity=False) for name, each in explainers.items()}
            np.savez(Path(path).with_suffix(".shap.npz"), **values)
            print("saved", flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        explainers[asked].shap_values(held["rows"], check_additivity=False)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
