"""A function of the operator's own among the columns: loaded at start, tried on two rows, and its answers checked."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from infermesh.errors import Internal, InvalidRequest
from infermesh.tensors import DATATYPES, Array
from services.transformer.declaring import Sized
from services.transformer.transforms.types import ColumnType

__all__ = ["TRIED_ROWS", "Hook", "HookDeclared", "HookFault"]

TRIED_ROWS = 2
LOGGED = 16  # a hook that fails does so in floods

_log = logging.getLogger(__name__)


class HookDeclared(Protocol):
    """Where the function is, and what it returns."""

    @property
    def function(self) -> str: ...
    @property
    def returns(self) -> Mapping[str, Sized]: ...


class HookFault(Exception):
    """A hook that can't be used; the text says why."""


class Hook:
    """Calls `module:function` with columns by name, and takes columns by name.

    A column of one value in a row is (N,), one of k is (N, k); what is given is read-only, BYTES as `bytes`. What is returned is
    exactly what `returns` declares; numbers may be of another width, floats may not become integers. `InvalidRequest` that the
    function raises is told to the caller; any other error is INTERNAL, and only the log has its text.

    `takes` are the columns that it gets; without them it is not tried. Raises HookFault when the function can't be loaded or does
    not do as it declares for two rows of zeros and empty texts. It runs on the event loop: it must not wait for anything.
    """

    def __init__(self, config: HookDeclared, takes: Mapping[str, ColumnType] | None) -> None:
        self._name = config.function
        self._returns = {name: each.type for name, each in config.returns.items()}
        self._vectors = {name for name, each in config.returns.items() if each.shape}
        self._function = _loaded(config.function)
        self._logged = 0
        if takes is not None:
            self.tried({name: _nothing(of) for name, of in takes.items()})

    def __call__(self, columns: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """The columns that it makes of N rows, each (N, k)."""
        try:
            return self._checked(self._function(dict(columns)), rows)
        except InvalidRequest:
            raise
        except Exception as error:
            if self._logged < LOGGED:
                self._logged += 1
                _log.exception("a feature hook failed", extra={"hook": self._name})
            raise Internal("a feature hook failed", reason="FEATURE_HOOK") from error

    def tried(self, columns: Mapping[str, Array]) -> None:
        """Call it with these columns of `TRIED_ROWS` rows. Raises HookFault."""
        try:
            self._checked(self._function(dict(columns)), TRIED_ROWS)
        except InvalidRequest:
            return  # it looks at values, and these are none
        except HookFault as fault:
            raise HookFault(f"{self._name}: {fault}") from None
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise HookFault(f"{self._name}: fails on {TRIED_ROWS} rows of zeros: {what}") from error

    def _checked(self, result: object, rows: int) -> dict[str, Array]:
        if not isinstance(result, Mapping):
            raise HookFault(f"expected a dict of columns by name, got {type(result).__name__}")
        if result.keys() != self._returns.keys():
            raise HookFault(f"expected the columns {_listed(self._returns)}, got {_listed(result)}")
        return {name: self._column(name, result[name], rows) for name in self._returns}

    def _column(self, name: str, value: Any, rows: int) -> Array:
        of = self._returns[name]
        shape = (rows, of.width) if name in self._vectors else (rows,)
        array = np.asarray(value)
        if array.shape != shape:
            raise HookFault(f'column "{name}": expected the shape {list(shape)}, got {list(array.shape)}')
        dtype = DATATYPES[of.datatype].dtype
        if not np.can_cast(array.dtype, dtype, "same_kind") or (array.dtype.kind == "O") is not (dtype.kind == "O"):
            raise HookFault(f'column "{name}": expected {of.datatype}, got {array.dtype}')
        if dtype.kind == "O" and not all(isinstance(each, bytes) for each in array.ravel().tolist()):
            raise HookFault(f'column "{name}": expected bytes')
        return array.astype(dtype, copy=False).reshape(rows, of.width)


def _loaded(name: str) -> Callable[[dict[str, Array]], object]:
    module, _, attribute = name.partition(":")
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("infermesh", "services"):
        raise HookFault(f'{name}: expected a module of your own, "{top}" is none')
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise HookFault(f'{name}: no module "{error.name}" on the path of Python (PYTHONPATH)') from None
    except AttributeError:
        raise HookFault(f'{name}: the module "{module}" has no "{attribute}"') from None
    except Exception as error:  # whatever the module does while it is read
        raise HookFault(f"{name}: can't be imported: {type(error).__name__}: {error}") from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise HookFault(f"{name}: expected a function that is not async")
    try:
        inspect.signature(function).bind({})
    except TypeError as error:
        raise HookFault(f"{name}: expected a function of one argument, a dict of columns by name: {error}") from None
    except ValueError:
        pass  # one written in C tells no signature; the trial shows
    return function  # type: ignore[no-any-return]


def _nothing(of: ColumnType) -> Array:
    shape = (TRIED_ROWS,) if of.width == 1 else (TRIED_ROWS, of.width)
    return np.full(shape, b"", np.object_) if of.datatype == "BYTES" else np.zeros(shape, DATATYPES[of.datatype].dtype)


def _listed(names: Mapping[Any, object] | Sequence[str]) -> str:
    return ", ".join(map(str, names)) or "none"
