from infermesh.runtime import run
from services.transformer.app import build
from services.transformer.config import TransformerConfig

if __name__ == "__main__":
    run("transformer", TransformerConfig, build)
