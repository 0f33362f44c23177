from infermesh.runtime import run
from services.explainer.config import ExplainerConfig

if __name__ == "__main__":
    run("explainer", ExplainerConfig, "services.explainer.app:build")
