"""What RepositoryModelLoad may ask for beside a load."""

from __future__ import annotations

import logging

from infermesh.errors import InvalidRequest, quoted
from infermesh.names import check_model_name
from infermesh.protocol.open_inference_pb2 import RepositoryModelLoadRequest
from services.predictor.repository.repository import Repository

__all__ = ["PROFILE", "VERSION", "carry_out"]

PROFILE = "infermesh_profile_requests"  # int64: profile so many requests of a loaded version, and load nothing
VERSION = "infermesh_version"  # string: the version that is profiled, by number or label; left out: the newest

_OURS = "infermesh_"

_log = logging.getLogger(__name__)


async def carry_out(repository: Repository, request: RepositoryModelLoadRequest) -> None:
    """Load the model, or profile it. Raises InvalidRequest for parameters that can't be done, and what `Repository.load` raises.

    Parameters that are not known are ignored, as those of ModelInfer are.
    """
    model = request.model_name
    check_model_name(model)
    for name in request.parameters:
        if name == "config" or name.startswith("file:"):
            raise _refused(
                model,
                name,
                "a model is served from the files of the repository, with the config.yaml that stands there; "
                "change them and load the model without this parameter",
            )
        if name.startswith(_OURS) and name not in (PROFILE, VERSION):
            raise _refused(model, name, f"expected {PROFILE} or {VERSION}")
    if PROFILE in request.parameters:
        await _profile(repository, request)
    elif VERSION in request.parameters:
        raise _refused(model, VERSION, f"goes with {PROFILE}; a load is of all versions")
    else:
        await repository.load(model)


async def _profile(repository: Repository, request: RepositoryModelLoadRequest) -> None:
    model = request.model_name
    parameter = request.parameters[PROFILE]
    if parameter.WhichOneof("parameter_choice") != "int64_param" or parameter.int64_param < 1:
        raise _refused(model, PROFILE, "expected an int64 of at least 1, the number of requests")
    version = ""
    if VERSION in request.parameters:
        parameter = request.parameters[VERSION]
        if parameter.WhichOneof("parameter_choice") != "string_param" or not parameter.string_param:
            raise _refused(model, VERSION, "expected a string, a version's number or label")
        version = parameter.string_param
    requests = request.parameters[PROFILE].int64_param
    found = repository.resolve(model, version)
    file = await repository.profile(found, requests)
    told = {"model": model, "version": found.version_text, "requests": requests, "file": str(file)}
    _log.info("profiling a model version", extra=told)


def _refused(model: str, parameter: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"model {quoted(model)}: parameter {quoted(parameter)}: {why}", reason="PARAMETER_INVALID", rejected=True
    )
