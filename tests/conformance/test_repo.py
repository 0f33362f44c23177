"""REPO: the index, load, unload, and a reload under load."""

from __future__ import annotations

import threading

import grpc
import pytest
from conformance_cases import Refuse, case, check_refusal
from conformance_models import BROKEN_MODEL, MODELS
from conformance_wire import Client, answer, fp32, infer

from infermesh.protocol import open_inference_pb2 as pb

STATES = {"READY", "LOADING", "UNLOADING", "UNAVAILABLE"}
RELOADS = 10
CALLERS = 4

LOAD, UNLOAD = "RepositoryModelLoad", "RepositoryModelUnload"


@case("REPO-index")
def test_the_index_lists_every_version(client: Client) -> None:
    """The index lists every version of every model with its state, also a model that could not be loaded, and why."""
    models = client.call("RepositoryIndex", pb.RepositoryIndexRequest()).models

    states = {(one.name, one.version): one.state for one in models}
    assert len(states) == len(models), "a version is listed twice"
    assert set(states.values()) <= STATES
    for name, model in MODELS.items():
        assert {states[name, str(version)] for version in model.versions} == {"READY"}
    (broken,) = (one for one in models if one.name == BROKEN_MODEL)
    assert broken.state == "UNAVAILABLE"
    assert broken.reason


@case("REPO-index-ready")
def test_the_index_of_what_is_ready_lists_nothing_else(client: Client) -> None:
    """The index of ready models leaves out what could not be loaded, and what was unloaded."""
    models = client.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models

    assert {one.state for one in models} == {"READY"}
    assert {one.name for one in models} >= set(MODELS)
    assert BROKEN_MODEL not in {one.name for one in models}


@case("REPO-unload", each={"dependents": (False, True)})
def test_an_unloaded_model_is_known_and_not_ready(client: Client, reloadable: str, dependents: bool) -> None:
    """After unload a model is UNAVAILABLE to infer, not ready and so listed; after load it answers again."""
    request = infer(reloadable, fp32("x", [1.5]))
    unload = pb.RepositoryModelUnloadRequest(model_name=reloadable)
    unload.parameters["unload_dependents"].bool_param = dependents

    client.call(UNLOAD, unload)
    with pytest.raises(grpc.RpcError) as refused:
        client.infer(request)
    ready = client.call("ModelReady", pb.ModelReadyRequest(name=reloadable)).ready
    state = _state(client, reloadable)
    client.call(LOAD, pb.RepositoryModelLoadRequest(model_name=reloadable))

    check_refusal(refused.value, grpc.StatusCode.UNAVAILABLE, reloadable)
    assert not ready
    assert state == "UNAVAILABLE"
    assert client.call("ModelReady", pb.ModelReadyRequest(name=reloadable)).ready
    assert _state(client, reloadable) == "READY"
    assert answer(client.infer(request))["y"] == fp32("y", [1.5])


@case("REPO-unload-metadata")
def test_metadata_of_an_unloaded_model_is_no_unknown_model(client: Client, reloadable: str) -> None:
    """Metadata of a model that was unloaded is answered, or UNAVAILABLE where it is no longer known."""
    client.call(UNLOAD, pb.RepositoryModelUnloadRequest(model_name=reloadable))

    try:
        metadata = client.call("ModelMetadata", pb.ModelMetadataRequest(name=reloadable))
    except grpc.RpcError as error:
        check_refusal(error, grpc.StatusCode.UNAVAILABLE, reloadable)
    else:
        assert [one.name for one in metadata.inputs] == ["x"]


@case("REPO-twice")
def test_load_and_unload_may_be_said_twice(client: Client, reloadable: str) -> None:
    """A model that is loaded may be loaded, and one that is unloaded may be unloaded."""
    for rpc, message in ((UNLOAD, pb.RepositoryModelUnloadRequest), (LOAD, pb.RepositoryModelLoadRequest)):
        client.call(rpc, message(model_name=reloadable))
        client.call(rpc, message(model_name=reloadable))

    assert client.call("ModelReady", pb.ModelReadyRequest(name=reloadable)).ready


@case("REPO-unknown", each={"rpc": (LOAD, UNLOAD)})
def test_an_unknown_model_can_not_be_loaded_or_unloaded(refuse: Refuse, rpc: str) -> None:
    """Load and unload of a model that the repository does not have are NOT_FOUND, and of none INVALID_ARGUMENT."""
    message = getattr(pb, f"{rpc}Request")

    refuse(message(model_name="conf-no-such-model"), grpc.StatusCode.NOT_FOUND, "conf-no-such-model", rpc=rpc)
    refuse(message(), grpc.StatusCode.INVALID_ARGUMENT, "model", rpc=rpc)


@case("REPO-override", each={"name": ("config", "file:1/model.onnx")})
def test_a_load_brings_no_files(refuse: Refuse, client: Client, reloadable: str, name: str) -> None:
    """A load that brings a configuration or files of its own is INVALID_ARGUMENT, and the model stays as it was."""
    request = pb.RepositoryModelLoadRequest(model_name=reloadable)
    request.parameters[name].string_param = "{}"

    refuse(request, grpc.StatusCode.INVALID_ARGUMENT, reloadable, name, rpc=LOAD)

    assert client.call("ModelReady", pb.ModelReadyRequest(name=reloadable)).ready


@case("REPO-outside", each={"name": ("../conf-linear", "conf-linear/1", "/conf-linear", "..")})
def test_a_model_name_is_no_path(client: Client, name: str) -> None:
    """A name that would lead out of the repository, or deeper into it, loads nothing."""
    with pytest.raises(grpc.RpcError) as refused:
        client.call(LOAD, pb.RepositoryModelLoadRequest(model_name=name))

    code = refused.value.code()
    assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    check_refusal(refused.value, code)


@case("REPO-reload-under-load")
def test_a_reload_fails_no_call(client: Client, reloadable: str) -> None:
    """A model that is loaded anew again and again under load fails no call, and gives each its own answer."""
    ended = threading.Event()
    wrong: list[object] = []
    served = [0] * CALLERS

    def call_until_ended(caller: int) -> None:
        while not ended.is_set():
            value = float(caller * 1_000_000 + served[caller])
            try:
                response = client.infer(infer(reloadable, fp32("x", [value])))
            except grpc.RpcError as error:
                wrong.append(error)
                return
            if answer(response)["y"] != fp32("y", [value]):
                wrong.append(response)
            served[caller] += 1

    callers = [threading.Thread(target=call_until_ended, args=(caller,)) for caller in range(CALLERS)]
    for thread in callers:
        thread.start()
    try:
        for _ in range(RELOADS):
            client.call(LOAD, pb.RepositoryModelLoadRequest(model_name=reloadable))
    finally:
        ended.set()
        for thread in callers:
            thread.join()

    assert not wrong
    assert all(served), served


def _state(client: Client, model: str) -> str:
    index = client.call("RepositoryIndex", pb.RepositoryIndexRequest()).models
    (one,) = (one for one in index if one.name == model)
    return one.state
