from infermesh.runtime import run
from services.gateway.app import build
from services.gateway.comparer import TOOLS
from services.gateway.config import GatewayConfig

if __name__ == "__main__":
    run("gateway", GatewayConfig, build, inside_mesh=False, tools=TOOLS)
