"""Puts the files of samples/config into the ConfigMaps of deploy/k8s: `python -m deploy.configmaps`.

The samples are the source, these copies are what `kubectl apply -f` takes. tests/deploy compares them.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = {
    "gateway": ("gateway.yaml", "routes.yaml"),  # and keys.yaml, which comes from a Secret
    "transformer": ("transformer.yaml", "features.yaml"),
    "predictor": ("predictor.yaml",),
    "explainer": ("explainer.yaml",),
}
HEAD = """\
# Copied from samples/config by `python -m deploy.configmaps`; your own cluster's copy is yours to edit.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: infermesh-{name}
    app.kubernetes.io/component: {name}
    app.kubernetes.io/part-of: infermesh
data:
"""


def config_map(name: str, samples: Path = ROOT / "samples" / "config") -> str:
    """The manifest of one service's ConfigMap; the files stand in it as they are."""
    parts = [HEAD.format(name=name)]
    for file in FILES[name]:
        lines = (samples / file).read_text(encoding="utf-8").splitlines()
        parts.append(f"  {file}: |\n" + "".join(f"    {line}\n" if line else "\n" for line in lines))
    return "".join(parts)


def main() -> None:
    for name in FILES:
        (ROOT / "deploy" / "k8s" / name / "config.yaml").write_text(config_map(name), encoding="utf-8")


if __name__ == "__main__":
    main()
