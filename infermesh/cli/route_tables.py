"""Routes as tables: as a file says them, and as a gateway that runs has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.scrape import Samples

if TYPE_CHECKING:
    from services.gateway.routes import ParameterTest, RouteConfig, RoutesFile, TextTest

__all__ = ["of_file", "of_gateway", "words_of"]

PICKS = "infermesh_gateway_picks_total"


def of_file(file: RoutesFile) -> None:
    """What the routes of a file do, one after the other, by the names of the models."""
    table = _table("model", "variant", "share", "version", "backend", "model there")
    for route in sorted(file.routes, key=lambda route: (not route.model, route.label)):
        shares = _shares({each.name: each.weight for each in route.alternatives})
        for at, each in enumerate(route.alternatives):
            backend = each.backend or route.backend
            table.add_row(
                *_cells(route.label if not at else "", each.name, shares[each.name], each.version, backend, each.model)
            )
        for shadow in route.shadows:
            share = f"copies {_percent(shadow.fraction)}"
            table.add_row(
                *_cells("", f"({shadow.name})", share, shadow.version, shadow.backend or route.backend, shadow.model)
            )
    out.print(table)
    for route in file.routes:
        said = list(_words_of_route(route))
        if said:
            out.print(Text(route.label, "bold"))
            for line in said:
                out.print(Text(f"  {line}"), soft_wrap=True)
    readiness = file.readiness
    if readiness.mode == "off":
        out.print("readiness is not watched")
    else:
        out.print(
            f"readiness: {readiness.mode}, asked every {readiness.every:g} s; "
            f"{readiness.fall} times no and {readiness.rise} times yes count"
        )


def of_gateway(samples: Samples, target: str) -> None:
    """What a gateway's metrics say about its routes, which are those that it has now."""
    shares = samples.all("infermesh_gateway_variant_share")
    if not shares:
        raise Failure(f"{target}: is no gateway, its metrics tell of no routes")
    generation = samples.total("infermesh_gateway_file_generation", file="routes")
    bad = samples.total("infermesh_gateway_file_bad", file="routes")
    out.print(
        f"generation {generation:.0f}"
        + (": the file was changed since and can't be used, the last good one stays" if bad else ""),
        soft_wrap=True,
    )
    table = _table("model", "variant", "share now", "version", "backend", "ready", "picked")
    last = ""
    for labels, share in sorted(shares, key=lambda each: each[0]["model"]):
        model, variant = labels["model"], labels["variant"]
        own = {"model": model, "variant": variant, "backend": labels["backend"], "version": labels["version"]}
        ready = samples.total("infermesh_gateway_variant_ready", **own)
        picked = samples.total(PICKS, model=model, variant=variant)
        table.add_row(
            *_cells(model if model != last else "", variant, _percent(share), labels["version"], labels["backend"]),
            Text("yes") if ready else Text("no", "red"),
            f"{picked:,.0f}",
        )
        last = model
    out.print(table)


def words_of(test: TextTest | ParameterTest) -> str:
    """A test as a person would say it."""
    said = []
    for name in sorted(test.model_fields_set):
        value = getattr(test, name)
        if name == "present":
            said.append("is there" if value else "is not there")
        elif name == "one_of":
            said.append(f"is one of {', '.join(map(repr, value))}")
        else:
            said.append(
                {"exact": "is", "prefix": "begins with"}.get(name, f"is {name.replace('_', ' ')}") + f" {value!r}"
            )
    return " and ".join(said)


def _words_of_route(route: RouteConfig) -> Iterator[str]:
    if route.aliases:
        yield f"also called {', '.join(route.aliases)}"
    for at, rule in enumerate(route.rules):
        when = [f"tenant {words_of(rule.when.tenant)}"] if rule.when.tenant is not None else []
        when += [f"metadata {key} {words_of(test)}" for key, test in rule.when.metadata.items()]
        when += [f"parameter {name} {words_of(test)}" for name, test in rule.when.parameters.items()]
        shares = ", ".join(f"{name} {share}" for name, share in _shares(rule.shares).items())
        yield f"rule {rule.name or at}: when {', and '.join(when)}: {shares}"
    if (sticky := route.sticky) is not None:
        places = [
            f"{name} {getattr(sticky, name)}" for name in ("metadata", "parameter", "input") if getattr(sticky, name)
        ]
        places += ["tenant"] if sticky.tenant else []
        yield f"sticky by {', else '.join(places)}; salt {sticky.salt or route.label}"
    if route.explanations is not None:
        yield f"explanations at {route.explanations.backend}"
    if len(route.variants) > 1:
        then = "its calls fail" if route.when_dead == "fail" else "the others get its share"
        yield f"a variant that is not ready: {then}"


def _shares(weights: Mapping[str, float]) -> dict[str, str]:
    total = sum(weights.values())
    return {name: _percent(weight / total) for name, weight in weights.items()}


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column.startswith(("share", "picked")) else "left", no_wrap=True)
    return table


def _cells(*texts: str) -> list[Text]:
    return [Text(text) for text in texts]
