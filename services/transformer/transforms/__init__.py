"""Declared transforms of columns: worked out at load, done on all rows of a request at once."""

from services.transformer.transforms.declared import Transform
from services.transformer.transforms.steps import Step, step_of
from services.transformer.transforms.types import ColumnType, ValueRefused, can_become

__all__ = ["ColumnType", "Step", "Transform", "ValueRefused", "can_become", "step_of"]
