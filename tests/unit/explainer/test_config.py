"""The explainer's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.config import ConfigError, load
from services.explainer.config import ExplainerConfig

SAMPLE = Path(__file__).parents[3] / "samples" / "config" / "explainer.yaml"


def test_the_sample_configuration_is_good_and_its_folder_is_there() -> None:
    """Relative to the file."""
    config = load(ExplainerConfig, SAMPLE, {})

    assert config.backends["predictor"].target == "predictor:8001"
    assert (config.backgrounds.root / "iris.json").is_file()


def test_by_default_the_predictor_is_asked_and_not_the_explainer_itself() -> None:
    """Without a file the backend is the service of that name, whatever the explainer's own port."""
    assert load(ExplainerConfig, None, {}).backends["predictor"].target == "predictor:8001"


def test_the_environment_wins_over_the_file() -> None:
    """With the nested names that every service has."""
    config = load(
        ExplainerConfig,
        SAMPLE,
        {
            "INFERMESH_EXPLAINER__BACKENDS__PREDICTOR__TARGET": "127.0.0.1:1234",
            "INFERMESH_EXPLAINER__BACKGROUNDS__MISSING": "zeros",
            "INFERMESH_EXPLAINER__ASKING__MAX_BYTES": "1MiB",
        },
    )

    assert config.backends["predictor"].target == "127.0.0.1:1234"
    assert config.backgrounds.missing == "zeros"
    assert config.asking.max_bytes == 1 << 20


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("METHODS__EXACT_FEATURES", "40", "methods.exact_features: .*less than or equal to 16"),
        ("BACKGROUNDS__MISSING", "guess", "backgrounds.missing: .*'refuse' or 'zeros'"),
        ("BACKEND", "nobody", "backend: expected one of predictor, got 'nobody'"),
        ("DEADLINE__RESERVE", "5", "deadline.reserve: expected a duration with its unit"),
        ("ASKING__ROWS", "5", "asking.rows: no such setting"),
    ],
)
def test_what_can_not_be_is_refused_at_start(setting: str, value: str, said: str) -> None:
    """With the path of the setting."""
    with pytest.raises(ConfigError, match=said):
        load(ExplainerConfig, SAMPLE, {f"INFERMESH_EXPLAINER__{setting}": value})
