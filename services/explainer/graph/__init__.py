"""Reading ONNX files of trees and linear models: `ModelGraph.read(content)`."""

from services.explainer.graph.model_graph import Column, Link, ModelGraph
from services.explainer.graph.refusal import NotReadable

__all__ = ["Column", "Link", "ModelGraph", "NotReadable"]
