from infermesh.runtime import run
from services.gateway.comparer import TOOLS
from services.gateway.config import GatewayConfig

if __name__ == "__main__":
    run("gateway", GatewayConfig, "services.gateway.app:build", inside_mesh=False, tools=TOOLS)
