from infermesh.runtime import run
from services.predictor.config import PredictorConfig

if __name__ == "__main__":
    run("predictor", PredictorConfig, "services.predictor.app:build")
