"""Which end-to-end tests run on both engines, and what a test has to know about their processes."""

from __future__ import annotations

from pathlib import Path

from infermesh.cli.processes import SERVICES

__all__ = ["engines_of", "serving_pids", "variables"]

# Modules whose tests start services of the mesh as processes of their own and call them; what the others test is
# a server in this process, a peer or a benchmark. What no caller of gRPC would send (test_bad_input) ends otherwise on engine
# envoy, by a reset where grpcio has a status; tests/abuse is about that.
ON_EVERY_ENGINE = frozenset(
    {
        "test_command_line",
        "test_explain",
        "test_faults",
        "test_faults_gateway",
        "test_gateway_processes",
        "test_http2_tools",
        "test_identities",
        "test_kserve_client",
        "test_many_names",
        "test_own_model",
        "test_raw_calls",
        "test_samples",
        "test_shadow_comparer",
        "test_shadow_equal_models",
        "test_shadow_sample",
        "test_shadows",
        "test_soak",
        "test_tritonclient",
    }
)

# What is asked for by name, and then runs on both; the default last, since its images stay.
ON_BOTH = frozenset({"test_compose"})

# What there is on engine envoy alone.
ON_ENVOY = frozenset({"test_engine_processes"})

# Tests of both that run on engine envoy in `make test` too: each kind of client, each service, what is lost when one ends.
SHORT_ON_ENVOY = {
    "test_samples": {
        "test_the_answer_is_scikit_learns_own",
        "test_an_explanation_adds_up_in_terms_of_the_looked_up_features",
        "test_who_has_no_key_learns_nothing",
        "test_a_stream_answers_in_order_and_goes_on_after_a_failure",
    },
    "test_tritonclient": {"test_tritonclient_is_served"},
    "test_http2_tools": {"test_h2load_is_served", "test_nghttp_reads_an_answer"},
    "test_raw_calls": {
        "test_a_call_is_answered",
        "test_a_refused_call_has_its_status",
        "test_the_services_are_described",
    },
    "test_identities": {"test_a_certificate_says_who_calls", "test_what_a_hop_says_counts_from_the_mesh_alone"},
}


def engines_of(module: str, test: str) -> list[tuple[str, bool]]:
    """The engines that a test runs on, and whether it is short there; one that is marked long is long on all."""
    if module in ON_ENVOY:
        return [("envoy", True)]
    if module in ON_BOTH:
        return [("envoy", True), ("grpcio", True)]
    if module in ON_EVERY_ENGINE:
        return [("grpcio", True), ("envoy", test in SHORT_ON_ENVOY.get(module, ()))]
    return [("grpcio", True)]


def variables(engine: str) -> dict[str, str]:
    """The environment in which every service starts on this engine."""
    return {f"INFERMESH_{service.upper()}__SERVER__ENGINE": engine for service in SERVICES}


def serving_pids(pid: int) -> set[int]:
    """The processes that carry the calls of a service: its own one, or those that its supervisor keeps."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    engines = {int(child) for child in children if Path(f"/proc/{child}/exe").readlink().name == "envoy"}
    return engines or {pid}
