"""A transformer as a user writes one: grpc.aio on both sides, on uvloop, and redis-py's asyncio client; no checks, no metrics.

    python -m benchmarks.bare_transformer TARGET REDIS_URL PORT [STORAGE]

STORAGE: `texts`, a hash with a decimal text for each feature (one HMGET for an entity, a pipeline of them for several); `raw`,
the same with four bytes of FP32 for each; `packed`, a string with all of them (GET, MGET).
"""

from __future__ import annotations

import asyncio
import struct
import sys

import grpc
import numpy as np
import uvloop
from redis.asyncio import Redis

from benchmarks.feature_rows import FEATURES, LOOKED_UP, NAMES
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc

LENGTH = struct.Struct("<I")


class BareTransformer(pb_grpc.GRPCInferenceServiceServicer):
    """Replaces `card_id`, raw BYTES, by the features of the cards, raw FP32."""

    def __init__(self, target: str, url: str, storage: str) -> None:
        self._backend = pb_grpc.GRPCInferenceServiceStub(grpc.aio.insecure_channel(target))
        self._redis = Redis.from_url(url)
        self._find = {"texts": self._texts, "raw": self._raw, "packed": self._packed}[storage]

    async def ModelInfer(self, request, context):
        at = next(at for at, tensor in enumerate(request.inputs) if tensor.name == "card_id")
        features = await self._find(_ids(request.raw_input_contents[at]))
        del request.inputs[at]
        del request.raw_input_contents[at]
        request.inputs.add(name=LOOKED_UP, datatype="FP32", shape=features.shape)
        request.raw_input_contents.append(features.tobytes())
        return await self._backend.ModelInfer(request, timeout=context.time_remaining())

    async def _texts(self, ids):
        rows = await self._hashes("texts:", ids)
        return np.array([list(map(float, row)) for row in rows], np.float32)

    async def _raw(self, ids):
        rows = await self._hashes("raw:", ids)
        return np.frombuffer(b"".join([b"".join(row) for row in rows]), np.float32).reshape(-1, FEATURES)

    async def _packed(self, ids):
        if len(ids) == 1:
            rows = [await self._redis.get("packed:" + ids[0])]
        else:
            rows = await self._redis.mget(["packed:" + each for each in ids])
        return np.frombuffer(b"".join(rows), np.float32).reshape(-1, FEATURES)

    async def _hashes(self, prefix, ids):
        if len(ids) == 1:
            return [await self._redis.hmget(prefix + ids[0], NAMES)]
        pipe = self._redis.pipeline(transaction=False)
        for each in ids:
            pipe.hmget(prefix + each, NAMES)
        return await pipe.execute()


def _ids(raw):
    ids, start = [], 0
    while start < len(raw):
        (length,) = LENGTH.unpack_from(raw, start)
        start += LENGTH.size + length
        ids.append(raw[start - length : start].decode())
    return ids


async def main(target: str, url: str, port: str, storage: str = "texts") -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(BareTransformer(target, url, storage), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:5]))
