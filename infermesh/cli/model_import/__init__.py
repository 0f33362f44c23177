"""`infermesh models import`: models of other libraries become ONNX, and are only taken when both answer the same."""

from infermesh.cli.model_import.command import import_model

__all__ = ["import_model"]
