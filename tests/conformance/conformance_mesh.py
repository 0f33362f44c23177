"""The four services as processes of their own, for a run of the suite without `--target`."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

from conformance_wire import Target

from infermesh.cli.ports import free_port
from infermesh.cli.processes import SERVICES, Mesh
from infermesh.cli.valkey import Valkey

__all__ = ["ConformanceMesh"]

KEY, RESTRICTED_KEY, LIMITED_KEY = "every-right", "conf-linear-alone", "a-few-calls"
FEATURED, AWAY = "conf-featured", "conf-away"
DRAIN = "1s"  # long enough for a case to see that health says so, and that calls are still served

PREDICTOR = "{}\n"
EXPLAINER = """
backends: {predictor: {target: "predictor:8001"}}
backgrounds: {root: backgrounds}
"""
TRANSFORMER = """
features: features.yaml
redis: {timeout: 2s}  # the suite is about answers, on a machine that may be busy
backends:
  predictor: {target: "predictor:8001"}
  explainer: {target: "explainer:8001"}
  nowhere: {target: "127.0.0.1:%(nowhere)s"}
routing:
  routes: [{model: conf-away, backend: nowhere}]
"""
FEATURES = """
views:
  thing:
    entity: {name: thing_id, type: string}
    missing: fail
    unavailable: fail
    features: [{name: a, datatype: FP32}, {name: b, datatype: FP32}, {name: c, datatype: FP32}]
services:
  conf-featured:
    inputs: {x: {columns: [thing.*]}}
"""
GATEWAY = """
auth: {keys: keys.yaml}
routes: routes.yaml
rate_limit:
  rate: 100000
  burst: 100000
  callers: {limited: {rate: 1, burst: 20}}
backends:
  transformer: {target: "transformer:8001"}
  nowhere: {target: "127.0.0.1:%(nowhere)s"}
"""
ROUTES = """
routes:
  - {model: conf-away, backend: nowhere}
  - {prefix: "", backend: transformer}
"""
# Each as good as another: what is explained is the model's answer, and not what the suite looks at.
BACKGROUNDS = {
    "conf-linear": {"name": "x", "datatype": "FP32", "shape": [4, 3], "data": [0, 0, 0, 1, 0, 2, 0, 3, 1, 2, 2, 2]},
    "conf-versions": {"name": "x", "datatype": "FP32", "shape": [2], "data": [0, 1]},
    "conf-fail": {"name": "index", "datatype": "INT64", "shape": [2], "data": [0, 1]},
}


class ConformanceMesh:
    """Predictor, transformer, gateway and explainer on free ports, serving `repository`, until `close`.

    `folder` is empty, for configuration files and logs. `targets` has one per hop, with every field that a case of that hop
    needs; README.md lists what that is. A process that has ended already is no failure: the drain case ends them.
    """

    def __init__(self, folder: Path, repository: Path, engine: str) -> None:
        models, config = _models(folder / "models", repository), _config(folder / "config")
        env = {
            service: {
                f"INFERMESH_{service.upper()}__SERVER__DRAIN": DRAIN,
                f"INFERMESH_{service.upper()}__SERVER__ENGINE": engine,
            }
            for service in SERVICES
        }
        with ExitStack() as begun:
            store = begun.enter_context(Valkey())
            self._mesh = begun.enter_context(
                Mesh(config=config, models=models, redis_url=store.url, env=env, restarts=None)
            )
            begun.callback(self._mesh.kill)  # how a service drains is a case of its own
            self.targets = {service: self._target(service) for service in SERVICES}
            self.close = begun.pop_all().close

    @property
    def is_whole(self) -> bool:
        """Whether none of its processes has ended."""
        return all(self._mesh.status(service) is None for service in SERVICES)

    def _target(self, service: str) -> Target:
        needs = {
            "gateway": {
                "key": KEY,
                "restricted_key": RESTRICTED_KEY,
                "limited_key": LIMITED_KEY,
                "away_model": AWAY,
                "featured_model": FEATURED,
            },
            "transformer": {"away_model": AWAY, "featured_model": FEATURED},
        }
        return Target(service, self._mesh.address(service), pid=self._mesh.pid(service), **needs.get(service, {}))


def _models(folder: Path, repository: Path) -> Path:
    """The repository, and one model more, whose input is looked up."""
    folder.mkdir()
    for model in repository.iterdir():
        (folder / model.name).symlink_to(model.resolve())
    (folder / FEATURED).symlink_to((repository / "conf-linear").resolve())
    return folder


def _config(folder: Path) -> Path:
    (folder / "backgrounds").mkdir(parents=True)
    nowhere = {"nowhere": free_port()}
    files = {
        "predictor.yaml": PREDICTOR,
        "explainer.yaml": EXPLAINER,
        "transformer.yaml": TRANSFORMER % nowhere,
        "features.yaml": FEATURES,
        "gateway.yaml": GATEWAY % nowhere,
        "routes.yaml": ROUTES,
        "keys.yaml": json.dumps({"keys": _keys()}),  # JSON is YAML
        **{f"backgrounds/{model}.json": json.dumps({"inputs": [rows]}) for model, rows in BACKGROUNDS.items()},
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def _keys() -> list[dict[str, object]]:
    every = ["infer", "explain", "admin", "variant"]
    callers: list[tuple[str, str, dict[str, object]]] = [
        (KEY, "everyone", {"scopes": every}),
        (RESTRICTED_KEY, "restricted", {"scopes": ["infer", "explain"], "models": ["conf-linear"]}),
        (LIMITED_KEY, "limited", {"scopes": every}),
    ]
    return [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "caller": caller, "tenant": caller, **rest}
        for key, caller, rest in callers
    ]
