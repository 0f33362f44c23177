"""The second server engine: the same servicers on Envoy's HTTP/2.

`envoy_config` says how Envoy is set up, `supervisor` is process 1 of a service and keeps its Envoy processes, `worker` is what
runs in the Python inside each of them. docs/engines.md tells when to use it.
"""
