from infermesh.runtime import run
from services.transformer.config import TransformerConfig

if __name__ == "__main__":
    run("transformer", TransformerConfig, "services.transformer.app:build")
