"""The command line of the suite, and the fixtures: a target per hop, a client to it and the model it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from conformance_cases import HOPS, Case, Refuse, Subject, check_refusal, subject_of
from conformance_engines import ENGINES, LONG_CASES, SHORT_HOPS, Compared
from conformance_mesh import ConformanceMesh
from conformance_models import make
from conformance_wire import Client, Target

from infermesh.protocol import open_inference_pb2 as pb

# Drained in this order, each hop still has what stands behind it when its turn comes.
OUTERMOST_FIRST = ("gateway", "explainer", "transformer", "predictor")
LAST_CASE = "NET-drain"

COMPARED = pytest.StashKey[Compared]()

# option → the field of Target that it sets
TARGET_OPTIONS = {
    "--key": ("key", "API key with every right, sent as x-api-key"),
    "--restricted-key": ("restricted_key", "API key that may use conf-linear and not conf-sum"),
    "--limited-key": ("limited_key", "API key that is refused after at most 500 calls in a row"),
    "--away-model": ("away_model", "a model routed to an address where nobody listens"),
    "--featured-model": ("featured_model", "a model that fails the call when a feature is missing"),
    "--pid": ("pid", "the server's process: the drain case ends it"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--target", action="append", metavar="HOST:PORT", help="a server under test; repeatable")
    group.addoption("--hop", action="append", choices=HOPS, help="what each --target is, in order; else a predictor")
    group.addoption("--models-from", metavar="DIR", help="serve this repository instead of building one")
    for option, (_, text) in TARGET_OPTIONS.items():
        group.addoption(option, default="", help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(case): the conformance case that a test is")
    config.stash[COMPARED] = Compared()
    targets, hops = _named(config)
    if len(hops) not in (0, len(targets)) or len(set(hops)) != len(hops):
        raise pytest.UsageError("give one --hop per --target, each another one, or none at all")
    if len(targets) > 1 and not hops:
        raise pytest.UsageError("several --target need a --hop each")
    if len(targets) > 1 and config.getoption("--pid", ""):
        raise pytest.UsageError("--pid is of one --target")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a case once per hop that it is for and that is under test, once per value of `each`, and on each engine.

    Servers of the command line have the engine that they have, and all cases are run. Otherwise those that take long are run on
    engine grpcio alone, at some hops; with `--long` all everywhere, since what both engines told is compared.
    """
    marker = metafunc.definition.get_closest_marker("case")
    if marker is None:
        return
    one: Case = marker.args[0]
    targets, hops = _named(metafunc.config)
    under_test = (hops or HOPS[:1]) if targets else HOPS
    long = metafunc.config.getoption("--long", False)
    name, values = one.each or ("", ("",))
    whole = bool(targets) or long or one.id not in LONG_CASES
    engines = ENGINES if whole else ENGINES[:1]
    marks = [pytest.mark.long] if long else []
    each = []
    for hop in (hop for hop in one.hops if hop in under_test and (whole or hop in SHORT_HOPS)):
        for value in values:
            for engine in [""] if targets else engines:
                words = [f"{one.id}.{value}" if name else one.id, hop, *([engine] if engine in ENGINES[1:] else [])]
                arguments = (hop, engine, value) if name else (hop, engine)
                each.append(pytest.param(*arguments, id="-".join(words).replace(" ", ""), marks=marks))
    metafunc.parametrize(("hop", "engine", name) if name else ("hop", "engine"), each)


@pytest.hookimpl(trylast=True)  # after plugins that shuffle
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One engine after the other, and the drain cases last: no other case can be run on a server that was drained."""

    def turn(item: pytest.Item) -> tuple[int, int]:
        marker = item.get_closest_marker("case")
        params = getattr(item, "callspec", None) and item.callspec.params
        if marker is None or not params:
            return 0, 0
        drains = 1 + OUTERMOST_FIRST.index(params["hop"]) if marker.args[0].id == LAST_CASE else 0
        return (ENGINES.index(params["engine"]) if params["engine"] else 0), drains

    items.sort(key=turn)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """A case fails, too, when its callers were told something else than on the engine before."""
    marker = pyfuncitem.get_closest_marker("case")
    engine = (
        pyfuncitem.callspec.params.get("engine") if marker is not None and hasattr(pyfuncitem, "callspec") else None
    )
    if not engine:
        return (yield)
    target: Target = pyfuncitem.funcargs["target"]
    target.heard.begin()
    done = yield
    values = [str(value) for name, value in sorted(pyfuncitem.callspec.params.items()) if name != "engine"]
    pyfuncitem.config.stash[COMPARED].check(marker.args[0].id, values, engine, target.heard.all())
    return done


@pytest.fixture(scope="session")
def meshes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, bool], ConformanceMesh]]:
    """The mesh of an engine, started when it is first asked for; another one when it has to be whole and was drained."""
    running: dict[str, ConformanceMesh] = {}
    built = request.config.getoption("--models-from", None)
    repository = Path(built) if built else tmp_path_factory.mktemp("models")
    if not built:
        make(repository)

    def mesh_of(engine: str, whole: bool) -> ConformanceMesh:
        if engine in running and whole and not running[engine].is_whole:
            running.pop(engine).close()
        if engine not in running:
            running[engine] = ConformanceMesh(tmp_path_factory.mktemp("mesh"), repository, engine)
        return running[engine]

    yield mesh_of
    for mesh in running.values():
        mesh.close()


@pytest.fixture
def targets(request: pytest.FixtureRequest, engine: str) -> dict[str, Target]:
    """The servers under test by hop: those of the command line, else a mesh that is started here."""
    addresses, hops = _named(request.config)
    if addresses:
        given = {field: request.config.getoption(option) for option, (field, _) in TARGET_OPTIONS.items()}
        given["pid"] = int(given["pid"] or 0)
        return {hop: Target(hop, at, **given) for hop, at in zip(hops or HOPS[:1], addresses, strict=True)}
    drains = request.node.get_closest_marker("case").args[0].id == LAST_CASE
    mesh: ConformanceMesh = request.getfixturevalue("meshes")(engine, not drains)
    return mesh.targets


@pytest.fixture(scope="session")
def clients() -> Iterator[dict[Target, Client]]:
    """Those that were made, until the end."""
    clients: dict[Target, Client] = {}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="session")
def subjects() -> dict[Target, Subject]:
    """The subjects that were asked for once."""
    return {}


@pytest.fixture
def target(request: pytest.FixtureRequest, hop: str, targets: dict[str, Target]) -> Target:
    """The server under test; skips what it was not set up for, but a mesh of our own is set up for everything."""
    target = targets[hop]
    needs = request.node.get_closest_marker("case").args[0].needs
    if needs and not getattr(target, needs):
        if _named(request.config)[0]:
            pytest.skip(f"the target was named without --{needs.replace('_', '-')}")
        pytest.fail(f"the mesh has no {needs} for the {hop}")
    return target


@pytest.fixture
def client(target: Target, clients: dict[Target, Client]) -> Client:
    if target not in clients:
        clients[target] = Client(target)
    return clients[target]


@pytest.fixture
def subject(client: Client, subjects: dict[Target, Subject]) -> Subject:
    if client.target not in subjects:
        subjects[client.target] = subject_of(client)
    return subjects[client.target]


@pytest.fixture
def refuse(client: Client, subject: Subject) -> Refuse:
    """Send what is to be refused: checks code, text and its words, and that a good request right after is served."""

    def refuse(
        message: object, code: grpc.StatusCode, *mentions: object, rpc: str = "ModelInfer", key: str | None = None
    ) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as refused:
            if isinstance(message, bytes):
                client.send(f"/inference.GRPCInferenceService/{rpc}", message)
            else:
                client.call(rpc, message, key=key)
        check_refusal(refused.value, code, *mentions)
        assert client.infer(subject.request(request_id="after")).id == "after"
        return refused.value

    return refuse


@pytest.fixture
def reloadable(client: Client) -> Iterator[str]:
    """A model that may be loaded and unloaded; it is loaded before and after."""
    load = pb.RepositoryModelLoadRequest(model_name="conf-reload")
    client.call("RepositoryModelLoad", load)
    yield "conf-reload"
    client.call("RepositoryModelLoad", load)


def _named(config: pytest.Config) -> tuple[list[str], list[str]]:
    """The addresses and hops of the command line; neither is known when pytest found this file late."""
    return config.getoption("--target", None) or [], config.getoption("--hop", None) or []
