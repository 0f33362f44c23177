"""The predictor: runs ONNX models from a model repository. A leaf of the mesh, and the one place where models compute."""
