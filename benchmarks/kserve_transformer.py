"""A peer: a transformer on KServe's SDK before a predictor of its own. Runs in an environment of its own, `.venv-kserve`.

    python -m benchmarks.kserve_transformer PREDICTOR REDIS_URL NAME PORT [--tuned]

As KServe's guide "Custom transformer" has it: a `kserve.Model` whose `preprocess` makes the predictor's inputs of a request, with
the predictor's host in the server's configuration and the protocol grpc-v2. The rows come from redis-py's asyncio client, in the
cheapest form that the store has: all features of a card as one string of FP32. `--tuned` as in `kserve_server`.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import numpy as np
import uvloop
from kserve import InferInput, InferRequest, Model, ModelServer
from kserve.predictor_config import PredictorConfig
from redis.asyncio import Redis

CARD, LOOKED_UP = "card_id", "card_features"


class JoinFeatures(Model):
    """Replaces `card_id` by the features of the cards."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        self._redis = Redis.from_url(url)
        self.ready = True

    async def preprocess(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferRequest:
        """The predictor's request."""
        by_name = {tensor.name: tensor for tensor in payload.inputs}
        keys = [b"packed:" + each for each in by_name.pop(CARD).as_numpy().ravel()]
        rows = [await self._redis.get(keys[0])] if len(keys) == 1 else await self._redis.mget(keys)
        features = np.frombuffer(b"".join(rows), np.float32).reshape(len(keys), -1)
        looked_up = InferInput(name=LOOKED_UP, shape=list(features.shape), datatype="FP32")
        looked_up.set_data_from_numpy(features, binary_data=True)
        return InferRequest(model_name=self.name, infer_inputs=[*by_name.values(), looked_up], request_id=payload.id)


def main(predictor: str, url: str, name: str, port: str, *options: str) -> None:
    tuned = "--tuned" in options
    if tuned:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(uvloop.new_event_loop())  # the SDK asks for a current loop before it runs its own
    config = PredictorConfig(predictor, predictor_protocol="grpc-v2")
    server = ModelServer(
        http_port=0, grpc_port=int(port), workers=1, enable_latency_logging=not tuned, predictor_config=config
    )
    if tuned:  # after the server, which sets the levels
        logging.getLogger("kserve").setLevel(logging.WARNING)
    server.start([JoinFeatures(name, url)])


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv[1:] = []  # the SDK reads the command line too
    main(*arguments)
