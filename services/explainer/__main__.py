from infermesh.runtime import run
from services.explainer.app import build
from services.explainer.config import ExplainerConfig

if __name__ == "__main__":
    run("explainer", ExplainerConfig, build)
