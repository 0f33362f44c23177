"""infermesh: an inference mesh of gRPC services that speak the Open Inference Protocol v2."""

__all__ = ["__version__"]

__version__ = "0.1.0"
