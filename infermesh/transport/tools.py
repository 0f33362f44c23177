"""RPCs that stand beside OIP on a service's port: what tools of operators ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from infermesh.call import Call
from infermesh.errors import Unavailable, Unimplemented
from infermesh.service import Stack, Tool
from infermesh.transport.status import answer_of, status_of

__all__ = ["Tools"]

Context = Any  # grpc.aio.ServicerContext


class Tools:
    """Unary RPCs by their full names, `package.Service/Method`, whose messages pass here as bytes.

    What answers is among the `tools` of `service` once that is built. The service admits each call under the RPC's name before
    anything else, so that none of them can forget credentials; what is asked about is for whoever answers to admit.
    """

    def __init__(self, methods: Sequence[str], hop: str, call: Callable[[Context], Call]) -> None:
        self.methods = tuple(methods)
        self.service: Stack | None = None
        self._hop = hop
        self._call = call

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method.partition("/")[0] for method in self.methods))

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """One for each service."""
        return [
            grpc.method_handlers_generic_handler(
                service,
                {
                    method.partition("/")[2]: grpc.unary_unary_rpc_method_handler(self._answering(method))
                    for method in self.methods
                    if method.partition("/")[0] == service
                },
            )
            for service in self.services
        ]

    def _answering(self, method: str) -> Callable[[bytes, Context], Awaitable[Any]]:
        name = method.partition("/")[2]

        async def answer(request: bytes, context: Context) -> Any:
            call = self._call(context)
            try:
                if self.service is None:
                    raise Unavailable(f"{self._hop} is starting", reason="STARTING", rejected=True)
                await self.service.admit(name, "", "", call)
                return await self._tool(self.service.tools, method)(request, call)
            except Exception as error:
                code, text, trailing = status_of(answer_of(error, call, name), self._hop)
            return await context.abort(code, text, trailing)

        return answer

    def _tool(self, offered: Mapping[str, Tool], method: str) -> Tool:
        tool = offered.get(method)
        if tool is None:
            raise Unimplemented(f"{method.partition('/')[2]}: switched off in this {self._hop}'s settings")
        return tool
