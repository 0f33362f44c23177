"""The generator of customers, credit applications and defaults; no number in it describes a real bank or region.

Every application has a customer of its own, with the features as the store held them at that moment, so that customers of
other draws are new to a model that was trained on these. Each number moves the risk in one direction, whatever the others are;
the term alone does not: a longer one makes the instalments smaller, and leaves more time in which things go wrong.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from samples.make.artifacts import Inputs

__all__ = [
    "CUSTOMER_FEATURES",
    "DIRECTIONS",
    "Applications",
    "Customers",
    "draw_applications",
    "draw_customers",
    "risk",
]

CUSTOMER_FEATURES = [
    "income_monthly",
    "debt_to_income",
    "credit_utilisation",
    "delinquencies_24m",
    "oldest_account_months",
    "inquiries_6m",
    "employment_years",
    "open_accounts",
]

# Which way each number moves the probability of a default, as the log-odds below have it.
DIRECTIONS = {
    "amount": 1, "income_monthly": -1, "debt_to_income": 1, "credit_utilisation": 1, "delinquencies_24m": 1,
    "oldest_account_months": -1, "inquiries_6m": 1, "employment_years": -1, "open_accounts": 1,
}  # fmt: skip

# Share of the customers, and what it adds to the log-odds.
HOUSING = {"renter": (0.42, 0.15), "mortgage": (0.33, -0.15), "owner": (0.17, -0.35), "with_family": (0.08, 0.25)}

# Share of the customers, the level of incomes, and what the market for labour there adds to the log-odds.
REGIONS = {
    "coast": (0.26, 1.00, 0.10), "valley": (0.24, 0.95, 0.00), "capital": (0.22, 1.20, -0.10), "uplands": (0.16, 0.90, 0.15),
    "islands": (0.12, 0.85, 0.30),
}  # fmt: skip

# Share of the applications, the usual amount in monthly incomes, and what it adds to the log-odds.
PURPOSES = {
    "car": (0.27, 4.0, -0.15), "debt_consolidation": (0.22, 3.0, 0.35), "home_improvement": (0.19, 3.5, -0.10),
    "education": (0.11, 2.5, 0.05), "medical": (0.09, 1.2, 0.20), "wedding": (0.07, 2.0, 0.00), "business": (0.05, 5.0, 0.55),
}  # fmt: skip

TERMS = np.array([12, 24, 36, 48, 60, 72])


@dataclass(frozen=True)
class Customers:
    """Drawn customers: what the store holds of them."""

    features: NDArray[np.float32]  # [customers, 8], columns as CUSTOMER_FEATURES
    housing: NDArray[np.str_]
    region: NDArray[np.str_]


@dataclass(frozen=True)
class Applications:
    """Drawn applications: what a model sees, whether each customer defaulted, and the probability it was drawn with."""

    inputs: Inputs
    defaulted: NDArray[np.int64]
    probability: NDArray[np.float64]


def draw_customers(random: Generator, customers: int) -> Customers:
    """Customers who are more or less prosperous, thrifty and settled: those three tie the features together."""
    prosperity, thrift, settled = random.standard_normal((3, customers))
    noise = random.standard_normal((4, customers))
    region = _draw(random, {name: share for name, (share, _, _) in REGIONS.items()}, customers)
    housing = _draw(random, {name: share for name, (share, _) in HOUSING.items()}, customers)
    level = np.array([REGIONS[name][1] for name in region])
    features = {
        "income_monthly": np.clip(level * np.exp(7.9 + 0.35 * prosperity + 0.15 * noise[0]), 900, 15_000).round(-1),
        "debt_to_income": _sigmoid(-1.2 - 0.5 * thrift - 0.3 * prosperity + 0.5 * noise[1]).round(2),
        "credit_utilisation": _sigmoid(-0.7 - 1.0 * thrift + 0.7 * noise[2]).round(2),
        "delinquencies_24m": random.poisson(np.exp(-1.6 - 0.7 * thrift - 0.3 * prosperity)),
        "oldest_account_months": np.clip(random.gamma(2.0, 45 * np.exp(0.3 * settled)), 1, 480).round(),
        "inquiries_6m": random.poisson(np.exp(-0.3 - 0.4 * thrift)),
        "employment_years": np.clip(random.gamma(1.4, 4.5 * np.exp(0.4 * settled)), 0, 42).round(1),
        "open_accounts": 1 + random.poisson(np.exp(1.2 + 0.2 * noise[3])),
    }
    return Customers(
        np.column_stack([features[name] for name in CUSTOMER_FEATURES]).astype(np.float32), housing, region
    )


def draw_applications(random: Generator, customers: Customers) -> Applications:
    """One application of every customer. Defaults are drawn last, each with a probability that follows from what was seen."""
    rows = len(customers.housing)
    known = dict(zip(CUSTOMER_FEATURES, customers.features.T.astype(np.float64), strict=True))
    income = known["income_monthly"]

    purpose = _draw(random, {name: share for name, (share, _, _) in PURPOSES.items()}, rows)
    usual = income * np.array([PURPOSES[name][1] for name in purpose])
    amount = np.clip(usual * np.exp(0.5 * random.standard_normal(rows)), 500, 60_000).round(-2)
    wanted = 8 + 8.0 * amount / income + 10 * random.standard_normal(rows)  # who borrows more takes longer
    term = TERMS[np.clip(np.searchsorted(TERMS, wanted), 0, len(TERMS) - 1)].astype(np.float64)

    inputs: Inputs = {
        "amount": amount[:, None].astype(np.float32),
        "term_months": term[:, None].astype(np.float32),
        "purpose": purpose[:, None],
        "customer_features": customers.features,
        "housing": customers.housing[:, None],
        "region": customers.region[:, None],
    }
    probability = risk(inputs)
    return Applications(inputs, (random.random(rows) < probability).astype(np.int64), probability)


def risk(inputs: Inputs) -> NDArray[np.float64]:
    """The probability of a default for each application.

    The log-odds jump where two circumstances meet (cards at their limit and payments that were late), and rise ever faster with
    the part of the income that the instalment takes; a model that adds up its inputs can follow neither.
    """
    known = dict(zip(CUSTOMER_FEATURES, inputs["customer_features"].T.astype(np.float64), strict=True))
    amount, term = (inputs[name][:, 0].astype(np.float64) for name in ("amount", "term_months"))
    income = known["income_monthly"]

    burden = known["debt_to_income"] + amount / term / income
    in_trouble = (known["credit_utilisation"] > 0.75) & (known["delinquencies_24m"] >= 1)
    newcomer = (known["employment_years"] < 1) & (known["oldest_account_months"] < 48)
    log_odds = (
        -4.1
        + 1.6 * known["credit_utilisation"]
        + 0.5 * np.minimum(known["delinquencies_24m"], 4)
        + 0.15 * np.minimum(known["inquiries_6m"], 6)
        + 1.0 * known["debt_to_income"]
        + 7.0 * np.maximum(burden - 0.4, 0)
        + 0.06 * np.maximum(known["open_accounts"] - 4, 0)
        + 0.012 * term
        - 0.3 * np.log1p(known["employment_years"])
        - 0.005 * np.minimum(known["oldest_account_months"], 180)
        - 0.5 * np.log(income / 2700)
        + 2.2 * in_trouble
        + 1.6 * newcomer
        + np.array([HOUSING[name][1] for name in inputs["housing"][:, 0]])
        + np.array([REGIONS[name][2] for name in inputs["region"][:, 0]])
        + np.array([PURPOSES[name][2] for name in inputs["purpose"][:, 0]])
    )
    return _sigmoid(log_odds)


def _draw(random: Generator, shares: dict[str, float], rows: int) -> NDArray[np.str_]:
    return random.choice(list(shares), size=rows, p=list(shares.values()))


def _sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-log_odds))
