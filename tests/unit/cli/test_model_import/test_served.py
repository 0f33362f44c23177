"""An imported model in a predictor."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from infermesh.cli.processes import Mesh
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_inputs, read_outputs
from infermesh.transport.outside import OutsideCaller


def test_import_and_load(imports, data, repository, tmp_path):
    """A predictor that runs takes the imported model by --load, and answers as scikit-learn does."""
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.rows, data.classes)
    config = tmp_path / "config"
    config.mkdir()
    (config / "predictor.yaml").write_text(f"repository: {{root: {repository}, mode: explicit}}\n")
    with Mesh(config=config, services=["predictor"]) as mesh:
        result = imports(model, data.rows, "--load", "--target", mesh.address("predictor"))

        assert result.status == 0, result.err
        assert "m is loaded" in result.out
        request = pb.ModelInferRequest(model_name="m")
        add_inputs(request, {"features": data.rows.astype(np.float32)}, raw=True)
        with OutsideCaller(mesh.address("predictor")) as caller:
            answers = read_outputs(caller.infer(request))
    assert np.array_equal(answers["label"], model.predict(data.rows))
    assert np.abs(answers["probabilities"] - model.predict_proba(data.rows)).max() < 1e-5
