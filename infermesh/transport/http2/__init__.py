"""A gRPC client of its own for unary calls, on HTTP/2 as far as those need it.

It costs a third of what grpc.aio's channel does. It is no second channel: health, streams, other RPCs, TLS and everything that is
not ordinary stay with that, and calls go over it whenever there is none of these connections.
"""
