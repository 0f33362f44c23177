"""The Dockerfile's promises that can be read off it; tests/e2e/test_compose.py builds and runs the images."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path


def test_it_builds_without_buildkit(dockerfile: str) -> None:
    """No syntax directive, no RUN or COPY flag that BuildKit alone knows, no here-document."""
    assert not re.search(r"^#\s*(syntax|check|escape)\s*=", dockerfile, re.IGNORECASE | re.MULTILINE)
    assert not re.search(r"--(mount|network|security|link|chmod|parents|exclude)\b", _instructions(dockerfile))
    assert "<<" not in dockerfile
    assert "--start-interval" not in dockerfile


def test_it_has_one_base_and_two_stages(dockerfile: str) -> None:
    """Both stages stand on the same Python, since the environment of the first is moved to the second."""
    assert re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE) == ["${PYTHON} AS build", "${PYTHON}"]
    assert re.findall(r"^ARG PYTHON=(.+)$", dockerfile, re.MULTILINE) == ["python:3.11-slim"]


def test_requirements_are_checked_by_their_hashes(dockerfile: str) -> None:
    """Only what is pinned is installed, and no code of a package runs while it is."""
    (installed,) = re.findall(r"pip .*? install (.+?) && ", _instructions(dockerfile))

    assert "--require-hashes --requirement /build/requirements.txt" in installed
    assert "--only-binary :all:" in installed


def test_the_last_stage_copies_from_the_first_alone(dockerfile: str) -> None:
    """What is needed to build does not reach the image, and the image is no root's."""
    last = dockerfile.rsplit("FROM ", 1)[1]

    assert re.findall(r"^COPY (\S+)", last, re.MULTILINE) == ["--from=build"] * 3
    assert not re.search(r"^(RUN|ADD) ", last, re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)


def test_only_the_service_s_own_code_is_copied(dockerfile: str) -> None:
    """No other service's code, no command line, no keys."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)

    assert copied == [
        "requirements/${SERVICE}.txt requirements/${SERVICE}-envoy.txt",
        "infermesh",
        "services/__init__.py",
        "services/${SERVICE}",
        "samples",
    ]
    assert "rm -rf /app/infermesh/cli" in dockerfile
    assert "keys.yaml" not in dockerfile


def test_an_image_with_an_engine_that_can_not_run_is_not_built(dockerfile: str, root: Path) -> None:
    """With ENGINE=envoy the build asks the code that starts it, with the image's Python and no bytecode left behind."""
    (asked,) = re.findall(r"envoy\) cd /app && (/opt/venv/bin/python -B -c '(.+?)') ;;", _instructions(dockerfile))

    compile(asked[1], "Dockerfile", "exec")
    module, name = re.findall(r"from ([\w.]+) import (\w+)", asked[1])[0]
    assert hasattr(importlib.import_module(module), name)
    assert re.findall(r"^ARG ENGINE=(\w+)$", dockerfile, re.MULTILINE) == ["grpcio"]


def test_python_is_process_one(dockerfile: str) -> None:
    """The shell that knows the service's name gives its place to Python, which then gets SIGTERM."""
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", _instructions(dockerfile), re.MULTILINE)

    shell, flag, script, name = json.loads(entry)

    assert (shell, flag, name) == ("/bin/sh", "-c", "infermesh")
    assert script.startswith("exec python -m services.$SERVICE ")
    assert script.endswith(' "$@"')


def test_the_health_check_runs_a_file_that_is_there(dockerfile: str, root: Path) -> None:
    """The check asks the gRPC port by the health service, as Kubernetes does."""
    (check,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.+?\])$", dockerfile, re.MULTILINE | re.DOTALL)

    python, isolated, file, target = json.loads(check)

    assert (python, isolated) == (
        "python",
        "-P",
    )  # else the files beside the probe could be imported in a library's place
    assert (root / file.removeprefix("/app/")).is_file()
    assert target == "127.0.0.1:8001"


def test_the_context_is_what_the_images_need(root: Path) -> None:
    """Everything is left out but what the Dockerfile copies, so that no key and no history gets near an image."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")} == {
        "requirements",
        "infermesh",
        "services",
        "samples",
    }


def _instructions(dockerfile: str) -> str:
    """The file without comments, continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    return re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
