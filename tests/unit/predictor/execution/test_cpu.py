"""How many CPUs a container may use, from the files of its cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.predictor.execution.cpu import cpu_quota


@pytest.fixture(autouse=True)
def node_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))


def machine(tmp_path: Path, cgroups: str, **files: str) -> int:
    """The quota of a process in these cgroups; `a__b` is the file a/b of the mount."""
    (tmp_path / "cgroup").write_text(cgroups)
    mounted = tmp_path / "mounted"
    for name, text in files.items():
        file = mounted / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return cpu_quota(tmp_path / "cgroup", mounted)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("200000 100000\n", 2),
        ("max 100000\n", 64),
        ("50000 100000\n", 1),
        ("250000 100000\n", 2),
        ("6400000 50000\n", 64),
        ("", 64),
        ("100000 0\n", 64),
        ("nonsense\n", 64),
    ],
)
def test_the_quota_of_version_2_counts_not_the_node(tmp_path: Path, text: str, cpus: int) -> None:
    """`cpu.max` at the mount is a container's own; what can't be understood is no quota; it is never less than 1."""
    assert machine(tmp_path, "0::/\n", cpu_max=text) == cpus


def test_of_nested_cgroups_the_smallest_quota_counts(tmp_path: Path) -> None:
    """A cgroup with no quota, or a large one, is held to that of the cgroup around it."""
    nested = {"pod__cpu_max": "300000 100000", "pod__inner__cpu_max": "max 100000", "cpu_max": "max 100000"}

    assert machine(tmp_path, "0::/pod/inner\n", **nested) == 3


def test_a_path_of_the_host_leads_to_the_mount(tmp_path: Path) -> None:
    """Without a cgroup namespace a container sees the host's path, of which nothing is mounted but its own folder."""
    assert machine(tmp_path, "0::/kubepods/pod1/c1\n", cpu_max="400000 100000") == 4


def test_the_quota_of_version_1_is_found_by_its_controller(tmp_path: Path) -> None:
    """Version 1 has two files, in the folder of the controller that is named in the process's list."""
    cgroups = "9:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n"
    files = {"cpu,cpuacct__docker__abc__cfs_quota_us": "150000\n", "cpu,cpuacct__docker__abc__cfs_period_us": "50000\n"}

    assert machine(tmp_path, cgroups, **files) == 3


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1_inside_a_container_stands_at_the_mount(tmp_path: Path, folder: str) -> None:
    """The folder is called by the controllers, or by `cpu` alone; -1 in the nested one is no quota."""
    files = {f"{folder}__cfs_quota_us": "200000", f"{folder}__cfs_period_us": "100000"}

    assert machine(tmp_path, f"4:{folder}:/docker/abc\n", **files) == 2
    assert machine(tmp_path, f"4:{folder}:/docker/abc\n", **{f"{folder}__docker__abc__cfs_quota_us": "-1"}) == 2


def test_without_cgroups_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    """A laptop: no file, or no cgroup with the controller."""
    assert cpu_quota(tmp_path / "none", tmp_path) == 64
    assert machine(tmp_path, "9:memory:/x\n") == 64
