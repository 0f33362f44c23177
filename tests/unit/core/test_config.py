"""Configuration: defaults < YAML file < environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config import (
    BackendConfig,
    ConfigError,
    ConfigPath,
    Duration,
    Mode,
    Model,
    ServiceConfig,
    Size,
    load,
    parse,
)
from infermesh.config.types import duration_text, size_text

PREFIX = "INFERMESH_SAMPLE__"


class Part(Model):
    mode: Mode = "enforce"
    names: list[str] = []
    wait: Duration = "250ms"  # type: ignore[assignment]
    folder: ConfigPath = Path("models")


class Sample(ServiceConfig):
    model_config = SettingsConfigDict(env_prefix=PREFIX)

    part: Part = Part()
    backends: dict[str, BackendConfig] = {}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sample.yaml"


def faults_of(file: Path | None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(Sample, file, {PREFIX + name: value for name, value in environ.items()})
    return refused.value.faults


def test_the_environment_is_over_the_file_and_the_file_over_the_defaults(file: Path) -> None:
    """Each setting is taken from the highest source that has it, one by one."""
    file.write_text("server: {grpc_port: 1, http_port: 2}\npart: {wait: 1s}")

    config = load(Sample, file, {f"{PREFIX}SERVER__GRPC_PORT": "7", "PATH": "/bin"})

    assert (config.server.grpc_port, config.server.http_port, config.server.host) == (7, 2, "0.0.0.0")
    assert (config.part.wait, config.part.mode) == (1.0, "enforce")


def test_without_a_file_the_defaults_hold() -> None:
    """A service starts without any configuration, and defaults with units are quantities."""
    config = load(Sample, None, {})

    assert (config.server.drain, config.server.grace, config.server.max_message) == (2.0, 20.0, 64 * 2**20)


def test_lists_and_groups_come_from_the_environment_too() -> None:
    """A list is JSON; a member of a mapping is named by its key."""
    config = load(
        Sample,
        None,
        {
            f"{PREFIX}PART__NAMES": '["a", "b"]',
            f"{PREFIX}BACKENDS__PREDICTOR__TARGET": "127.0.0.1:9",
            f"{PREFIX}BACKENDS__OTHER": '{"target": ["127.0.0.1:1", "127.0.0.2:1"]}',
        },
    )

    assert config.part.names == ["a", "b"]
    assert config.backends["predictor"].target == "127.0.0.1:9"
    assert config.backends["other"].target == ["127.0.0.1:1", "127.0.0.2:1"]


def test_a_variable_changes_one_backend_of_the_file(file: Path) -> None:
    """Mappings of file and environment are merged, not replaced."""
    file.write_text("backends: {a: {target: 'a:1', margin: 5ms}, b: {target: 'b:1'}}")

    config = load(Sample, file, {f"{PREFIX}BACKENDS__A__TARGET": "z:2"})

    assert (config.backends["a"].target, config.backends["a"].margin) == ("z:2", 0.005)
    assert config.backends["b"].target == "b:1"


def test_every_fault_is_named_at_once(file: Path) -> None:
    """One start shows all that is wrong: file, variables, unknown names; each with its path and what would be right."""
    file.write_text(
        "server: {grpc_port: 99999, drain: 5, max_message: 10}\npart: {mode: sometimes, wiat: 1s}\nbackends: {p: {}}\nextra: 1"
    )

    faults = faults_of(file, SERVER__HTTP_PORT="x", SERVER__GRPC_PROT="1", SEVER__HOST="h")

    text = "\n".join(faults)
    assert len(faults) == 10, text
    for words in (
        "server.grpc_port: Input should be less than or equal to 65535, got 99999",
        'server.drain: expected a duration with its unit, such as "250ms", "5s" or "2m", got 5',
        'server.max_message: expected a size with its unit, such as "64MiB" or "512KiB", got 10',
        "part.mode: Input should be 'off', 'observe' or 'enforce', got 'sometimes'",
        "part.wiat: no such setting",
        "backends.p.target: required, and not given",
        "extra: no such setting",
        "server.http_port: Input should be a valid integer",
        "server.grpc_prot: no such setting",
        f"{PREFIX}SEVER__HOST: no such setting",
    ):
        assert words in text


def test_the_text_names_the_file_and_counts_the_faults(file: Path) -> None:
    """What a person reads begins with where to look."""
    file.write_text("server: {grpc_port: -1}")

    with pytest.raises(ConfigError, match=f"{file}: 1 fault\n  server.grpc_port: ") as refused:
        load(Sample, file, {})

    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(("name", "value"), [("PART__NAMES", "iris"), ("SERVER", "abc"), ("BACKENDS", "{")])
def test_a_variable_that_is_no_json_is_named(name: str, value: str) -> None:
    """A list or a group that can't be read is a fault like any other, told by the variable's name."""
    faults = faults_of(None, **{name: value, "SERVER__GRPC_PROT": "1"} if name != "SERVER" else {name: value})

    assert any(f"{PREFIX}{name}" in fault or name.lower() in fault for fault in faults)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "no valid YAML"),
        ("- 1", "expected a mapping of settings, got list"),
        ("server: {}\nserver: {}", "key 'server' stands twice"),
        ("part:\n  wait: 1s\n  wait: 2s", "key 'wait' stands twice"),
        ("? [a]\n: b", "a key is a list or mapping"),
        ("a: !!python/object/apply:os.getcwd []", "no valid YAML"),
    ],
)
def test_a_file_that_is_no_settings_is_one_fault(file: Path, text: str, words: str) -> None:
    """Faults of the text are told as such; a key that stands twice is never silently the last one; YAML can't run code."""
    file.write_text(text)

    assert words in " ".join(faults_of(file))


def test_a_missing_or_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    """A path that is wrong is said, not a traceback."""
    (tmp_path / "latin").write_bytes(b"\xff\xfe\x00")

    assert "can't be read" in faults_of(tmp_path / "none.yaml")[0]
    assert "can't be read" in faults_of(tmp_path)[0]
    assert "can't be read" in faults_of(tmp_path / "latin")[0]


def test_an_empty_file_says_nothing(file: Path) -> None:
    """Comments alone leave the defaults."""
    file.write_text("# nothing\n")

    assert load(Sample, file, {}) == load(Sample, None, {})


def test_yaml_anchors_may_be_merged(file: Path) -> None:
    """`<<` is YAML's way to share settings, and may be overridden beside it."""
    file.write_text("backends:\n  a: &a {target: 'a:1', margin: 5ms}\n  b: {<<: *a, target: 'b:1'}")

    config = load(Sample, file, {})

    assert (config.backends["b"].target, config.backends["b"].margin) == ("b:1", 0.005)


def test_a_relative_path_starts_at_the_file_and_an_absolute_one_stays(file: Path) -> None:
    """A configuration can be read from any working folder; a path that it does not name is where the process runs."""
    for text, expected in (
        ("part: {folder: sub/models}", file.parent / "sub/models"),
        ("part: {folder: /models}", Path("/models")),
        ("", Path("models")),
        ("part: {wait: 1s}", Path("models")),
    ):
        file.write_text(text)
        assert load(Sample, file, {}).part.folder == expected

    assert load(Sample, None, {f"{PREFIX}PART__FOLDER": "x"}).part.folder == Path("x")


def test_a_part_in_a_file_of_its_own_is_checked_the_same_way(file: Path) -> None:
    """`parse` reads what changes while running, with paths relative to that file."""
    file.write_text("wait: 2m\nfolder: f")
    assert parse(Part, file).wait == 120.0
    assert parse(Part, file).folder == file.parent / "f"

    file.write_text("wait: 2\nmode: never")
    with pytest.raises(ConfigError) as refused:
        parse(Part, file)
    assert len(refused.value.faults) == 2


def test_a_long_value_is_shown_shortened(file: Path) -> None:
    """A fault stays readable."""
    file.write_text(f"server: {{grpc_port: {'x' * 5000}}}")

    assert len(faults_of(file)[0]) < 250


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("200us", 0.0002), ("1.5 s", 1.5), ("250ms", 0.25), ("2m", 120), ("1h", 3600), ("1d", 86400)],
)
def test_durations_carry_their_unit(text: str, seconds: float) -> None:
    """All units are read as seconds."""
    assert TypeAdapter(Duration).validate_python(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [5, 0.5, "5", "-1s", "1 fortnight", "s", "", None, True, "1e3s", "9" * 400 + "s", "1S"]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    """A bare number could be seconds or milliseconds: nobody guesses."""
    with pytest.raises(ValidationError, match="expected a duration with its unit"):
        TypeAdapter(Duration).validate_python(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("1.5KiB", 1536), ("64MiB", 64 * 2**20), ("1GiB", 2**30), ("2kB", 2000), ("3MB", 3 * 10**6)],
)
def test_sizes_carry_their_unit(text: str, size: int) -> None:
    """Powers of two and of ten are told apart."""
    assert TypeAdapter(Size).validate_python(text) == size


@pytest.mark.parametrize("value", [5, "5", "1 mib", "-1B", "1KB", "9" * 400 + "B", None])
def test_what_is_no_size_is_refused(value: object) -> None:
    """Bare numbers and other spellings of units are not sizes."""
    with pytest.raises(ValidationError, match="expected a size with its unit"):
        TypeAdapter(Size).validate_python(value)


@given(st.integers(0, 10**7))
def test_a_duration_is_written_as_it_can_be_read(milliseconds: int) -> None:
    """The text of a duration is read back as the same duration."""
    text = duration_text(milliseconds / 1000)

    assert TypeAdapter(Duration).validate_python(text) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 2**40))
def test_a_size_is_written_as_it_can_be_read(size: int) -> None:
    """The text of a size is read back as the same size."""
    assert TypeAdapter(Size).validate_python(size_text(size)) == size


@pytest.mark.parametrize(
    "target", ["predictor", "predictor:", ":8001", "host:port", [], ["predictor:8001"], ["127.0.0.1"]]
)
def test_a_target_is_an_address_with_a_port(target: object) -> None:
    """A host needs its port; a list holds IPv4 addresses, because no name is resolved in it."""
    with pytest.raises(ValidationError, match=r"host:port|IPv4 addresses with ports|at least one"):
        BackendConfig(target=target)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", ["0B", "2GiB"])
def test_a_message_limit_is_what_grpc_can_hold(file: Path, size: str) -> None:
    """gRPC keeps the limit in 32 bits; a larger one would fail at start without saying where."""
    file.write_text(f"server: {{max_message: {size}}}")

    assert "server.max_message" in faults_of(file)[0]


class Guarded(Model):
    password: SecretStr = SecretStr("")
    pin: SecretStr | None = None
    api_token: str = ""
    url: str = ""
    count: int = 0

    @field_validator("url")
    @classmethod
    def _scheme(cls, url: str) -> str:
        if url and not url.startswith("redis://"):
            raise ValueError("expected redis://")
        return url

    @model_validator(mode="after")
    def _whole(self) -> Guarded:
        if self.count:
            raise ValueError("expected no count")
        return self


class Vault(ServiceConfig):
    model_config = SettingsConfigDict(env_prefix=PREFIX)

    store: Guarded = Guarded()
    stores: dict[str, Guarded] = {}
    listed: list[Guarded] = []


@pytest.mark.parametrize(
    "text",
    [
        "store: {password: 20250101}",
        "store: {pin: 20250101}",
        "store: {pin: [20250101]}",
        "stores: {a: {password: 20250101}}",
        "listed: [{pin: 20250101}]",
        "store: {api_token: 20250101}",
        "store: {url: 'rediss://ann:20250101@h/0'}",
        "store: {url: 'rediss://:2025/01@01@h/0', pin: 20250101}",
        "store: {url: 'http://h/0?password=20250101&x=1'}",
        "store: {password: '20250101', api_token: '20250101', url: 'redis://:20250101@h', count: 1}",
        "store: [{password: '20250101', pin: 20250101}]",
        "store: 'redis://:20250101@h'",
        "store: {password: *20250101}",
        "store: {password: !20250101 x}",
        'store: {password: "20250101}',
        "store: {password: '20250101' '}",
        "store:\n  password: 20250101: x",
    ],
)
def test_no_fault_shows_a_secret(file: Path, text: str) -> None:
    """What a log may keep for years has no passwords in it, however they were mistyped; the fault and its place are told."""
    file.write_text(text)

    with pytest.raises(ConfigError) as refused:
        load(Vault, file, {})

    shown = str(refused.value)
    assert "20250101" not in shown and "2025/01" not in shown
    assert "store" in shown or "listed" in shown or "line" in shown


def test_a_secret_in_a_variable_is_not_shown_either() -> None:
    """JSON that is cut short is a fault of the variable, by its name alone."""
    for name, value in (("STORE", '{"password": "20250101"'), ("STORE__URL", "rediss://:20250101@h")):
        with pytest.raises(ConfigError) as refused:
            load(Vault, None, {PREFIX + name: value})
        assert "20250101" not in str(refused.value)


def test_what_is_no_secret_is_shown_beside_one(file: Path) -> None:
    """A fault that hides everything helps nobody."""
    file.write_text("store: {password: x, url: 'rediss://ann:hunter2@store:6379/0', count: 1}\nlisted: [{count: abc}]")

    with pytest.raises(ConfigError) as refused:
        load(Vault, file, {})

    assert "got 'rediss://…@store:6379/0'" in str(refused.value)
    assert "listed.0.count" in str(refused.value) and "got 'abc'" in str(refused.value)


@pytest.mark.parametrize("written", ["off", "'off'", "observe"])
def test_a_mode_may_be_written_as_people_write_it(tmp_path: Path, written: str) -> None:
    """YAML 1.1 reads a bare `off` as false, which nobody means here; `on` is still no mode."""

    class Policy(Model):
        mode: Mode = "enforce"

    file = tmp_path / "policy.yaml"
    file.write_text(f"mode: {written}\n")
    assert parse(Policy, file).mode == written.strip("'")

    file.write_text("mode: on\n")
    with pytest.raises(ConfigError, match="'off', 'observe' or 'enforce', got True"):
        parse(Policy, file)
