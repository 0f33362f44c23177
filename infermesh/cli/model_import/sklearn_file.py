"""scikit-learn estimators in joblib, pickle and skops files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.needs import library
from infermesh.cli.model_import.original import Original
from infermesh.cli.model_import.sklearn_model import original_of

__all__ = ["load_pickle", "load_skops"]


def load_pickle(file: Path, *, trusted: bool) -> Original:
    """The estimator of a joblib or pickle file. Reading it runs whatever code its maker put in, so nothing of it is read unless
    `trusted`. Raises Failure."""
    if not trusted:
        raise Failure(
            f"{file}: a pickle can run any code while it is read, as you, on this machine",
            hint="--trust reads it all the same: only for a file that you or somebody you trust made. "
            "skops.io.dump writes a form that runs no code",
            status=2,
        )
    joblib = library("joblib")
    library("sklearn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = joblib.load(file)
        except ModuleNotFoundError as error:
            raise Failure(
                f"{file}: it needs the module {error.name!r}, which is not installed here",
                hint="import it in an environment like the one of the training",
            ) from None
        except Exception as error:  # unpickling raises whatever the objects in it do
            raise Failure(f"{file}: can't be unpickled: {type(error).__name__}: {_line(error)}") from None
    return original_of(file, "sklearn", estimator, _about_versions(caught))


def load_skops(file: Path, trusted_types: Sequence[str]) -> Original:
    """The estimator of a skops file, which runs no code. Types that are not skops's own, nor in `trusted_types`, are refused,
    all of them at once. Raises Failure."""
    skops = library("skops.io")
    try:
        unknown = skops.get_untrusted_types(file=str(file))
    except Exception as error:  # a schema that is damaged fails anywhere
        raise Failure(f"{file}: skops can't read it: {type(error).__name__}: {_line(error)}") from None
    if refused := sorted(set(unknown) - set(trusted_types)):
        raise Failure(
            f"{file}: it has {len(refused)} type{'s' * (len(refused) != 1)} that skops does not know as harmless: "
            f"{', '.join(refused)}",
            hint=" ".join(f"--trust-type {name}" for name in refused),
            status=2,
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = skops.load(str(file), trusted=unknown)
        except Exception as error:
            raise Failure(f"{file}: skops can't read it: {type(error).__name__}: {_line(error)}") from None
    return original_of(file, "skops", estimator, _about_versions(caught))


def _about_versions(caught: Iterable[Any]) -> tuple[str, ...]:
    """A note when the file is of another scikit-learn: its answers here may not be those of then."""
    for warning in caught:
        if type(warning.message).__name__ == "InconsistentVersionWarning":
            was, now = warning.message.original_sklearn_version, warning.message.current_sklearn_version
            return (f"saved by scikit-learn {was} and read by {now}: it may answer otherwise than it did then",)
    return ()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
