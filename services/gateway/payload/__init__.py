"""A sample of what was asked and answered, as JSON lines; decoded and written by a process of its own.

The call path hands serialised messages to that process (`python -m services.gateway.payload`) after the answer has gone out, and
looks into no tensor. `infermesh.payloads` reads the files; it needs the standard library alone.
"""
