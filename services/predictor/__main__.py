from infermesh.runtime import run
from services.predictor.app import build
from services.predictor.config import PredictorConfig

if __name__ == "__main__":
    run("predictor", PredictorConfig, build)
