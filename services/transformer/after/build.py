"""The steps of all models of a feature file."""

from __future__ import annotations

from infermesh.config import ConfigError
from infermesh.names import explained_model
from infermesh.telemetry import Metrics
from services.transformer.after.after_model import AfterModel
from services.transformer.after.metrics import Decisions
from services.transformer.config import TransformerConfig
from services.transformer.hooks import HookFault

__all__ = ["after_models"]


def after_models(config: TransformerConfig, metrics: Metrics) -> dict[str, AfterModel]:
    """By the name of the model; those without steps are not among them. Raises ConfigError."""
    decisions = Decisions(metrics.service)
    models: dict[str, AfterModel] = {}
    faults = []
    for model, service in config.feature_file().services.items():
        if not service.after:
            continue
        if config.routing.explanations and explained_model(model):
            faults.append(f"services.{model}.after: there are no steps on the answers of an explainer")
            continue
        words = [word for each in service.after if each.threshold is not None for word in each.threshold.decisions]
        try:
            models[model] = AfterModel(service.after, decisions.of(model, words))
        except HookFault as fault:
            faults.append(f"services.{model}.{fault}")
    if faults:
        raise ConfigError(str(config.features), faults)
    if models:
        metrics.registry.register(decisions)
    return models
