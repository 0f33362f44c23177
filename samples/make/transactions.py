"""The generator of cards, transactions and frauds; no number in it describes a real bank, shop or country.

Every transaction has a card of its own, with the features as the store held them at that moment, so that cards of other
draws are new to a model that was trained on these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from samples.make.artifacts import Inputs

__all__ = ["CARD_FEATURES", "FIRST", "LATER", "Cards", "Season", "Transactions", "draw_cards", "draw_transactions"]

CARD_FEATURES = [
    "card_age_days",
    "credit_limit",
    "average_amount_30d",
    "transactions_24h",
    "declines_7d",
    "distance_from_home_km",
    "foreign_share_90d",
    "home_country_risk",
]

# Share of the cards and risk of the home country. Every risk is another number, so that a model that sees the risk can
# tell whether a transaction was made at home.
COUNTRIES = {
    "DE": (0.22, 0.12), "FR": (0.18, 0.21), "IT": (0.14, 0.27), "ES": (0.12, 0.24), "PL": (0.10, 0.18),
    "NL": (0.08, 0.15), "SE": (0.06, 0.09), "PT": (0.05, 0.30), "US": (0.05, 0.42),
}  # fmt: skip

# Share of the transactions, and the usual amount as a multiple of the card's average.
MERCHANTS = {
    "grocery": (0.26, 0.9), "restaurant": (0.17, 0.8), "digital_goods": (0.12, 0.3), "fuel": (0.11, 1.1),
    "fashion": (0.10, 1.3), "pharmacy": (0.08, 0.5), "electronics": (0.06, 2.6), "travel": (0.05, 4.0),
    "gift_cards": (0.03, 1.2), "jewellery": (0.02, 5.0),
}  # fmt: skip


@dataclass(frozen=True)
class Season:
    """What differs between the months that versions 1 and 2 were trained on and the later ones of version 3."""

    resold: Sequence[str]  # categories in which thieves buy what they sell again
    times_average: float  # an amount past this multiple of the card's average stands out
    night: tuple[float, float]  # hours in which thieves are busy
    trial: tuple[float, float]  # amounts with which they try out a card
    ring_in: str  # the country where they use cards from elsewhere
    prices: float  # factor on every amount
    online: float  # factor on the share of digital goods


FIRST = Season(
    resold=("electronics", "jewellery", "gift_cards"),
    times_average=3.0,
    night=(0, 5),
    trial=(0, 6),
    ring_in="SE",
    prices=1.0,
    online=1.0,
)
LATER = Season(
    resold=("electronics", "gift_cards", "fashion"),
    times_average=2.0,
    night=(21, 24),
    trial=(6, 14),
    ring_in="NL",
    prices=1.1,
    online=1.5,
)


@dataclass(frozen=True)
class Transactions:
    """Drawn transactions: what a model sees, whether each is a fraud, and the probability it was drawn with."""

    inputs: Inputs
    fraud: NDArray[np.int64]
    probability: NDArray[np.float64]


@dataclass(frozen=True)
class Cards:
    """Drawn cards: the features that the store holds, and the home country, which no model sees."""

    features: NDArray[np.float32]  # [cards, 8], columns as CARD_FEATURES
    home: NDArray[np.str_]


def draw_cards(random: Generator, cards: int) -> Cards:
    """Cards of holders who are more or less well off, busy and mobile: those three tie the features together."""
    wealth, business, mobility = random.standard_normal((3, cards))
    home = random.choice(list(COUNTRIES), size=cards, p=[share for share, _ in COUNTRIES.values()])
    age_days = np.clip(random.gamma(1.3, 700, cards), 1, 5000).round()
    limit = np.exp(7.5 + 0.6 * wealth + 0.3 * np.minimum(age_days / 1500, 1) + 0.3 * random.standard_normal(cards))
    features = {
        "card_age_days": age_days,
        "credit_limit": np.clip(limit, 300, 25_000).round(-2),
        "average_amount_30d": np.exp(3.5 + 0.45 * wealth + 0.35 * random.standard_normal(cards)).round(2),
        "transactions_24h": random.poisson(np.exp(0.7 + 0.5 * business)),
        "declines_7d": random.poisson(np.exp(-1.7 - 0.4 * wealth + 0.4 * business)),
        "distance_from_home_km": np.exp(2.2 + 1.2 * mobility + 1.1 * random.standard_normal(cards)).round(1),
        "foreign_share_90d": _sigmoid(-3.0 + 1.2 * mobility + 0.4 * random.standard_normal(cards)).round(3),
        "home_country_risk": np.array([COUNTRIES[country][1] for country in home]),
    }
    return Cards(np.column_stack([features[name] for name in CARD_FEATURES]).astype(np.float32), home)


def draw_transactions(random: Generator, cards: Cards, season: Season) -> Transactions:
    """One transaction of every card. Frauds are drawn last, each with a probability that follows from what was seen.

    The log-odds jump where two or three circumstances meet (a resold category, an unusual amount and a quiet card; a
    large amount at night), which a model that adds up its inputs can't follow.
    """
    rows = len(cards.home)
    card = dict(zip(CARD_FEATURES, cards.features.T.astype(np.float64), strict=True))

    shares = [share * (season.online if name == "digital_goods" else 1) for name, (share, _) in MERCHANTS.items()]
    merchant = random.choice(list(MERCHANTS), size=rows, p=np.array(shares) / sum(shares))
    usual = card["average_amount_30d"] * np.array([MERCHANTS[name][1] for name in merchant]) * season.prices
    amount = np.maximum(usual * np.exp(0.8 * random.standard_normal(rows)), 0.5).round(2)
    by_day = random.choice([9.0, 13.0, 18.5], size=rows, p=[0.25, 0.35, 0.4]) + 2.2 * random.standard_normal(rows)
    hour = np.where(random.random(rows) < 0.15, random.uniform(0, 24, rows), by_day % 24).round(2) % 24
    elsewhere = random.choice(list(COUNTRIES), size=rows, p=[share for share, _ in COUNTRIES.values()])
    country = np.where(random.random(rows) < card["foreign_share_90d"], elsewhere, cards.home)

    times_average = amount / card["average_amount_30d"]
    resold = np.isin(merchant, season.resold)
    at_night = (season.night[0] <= hour) & (hour < season.night[1])
    a_trial = (merchant == "digital_goods") & (season.trial[0] <= amount) & (amount < season.trial[1])
    quiet, busy = card["transactions_24h"] <= 1, card["transactions_24h"] >= 4
    log_odds = (
        -6.1
        + 4.0 * (resold & (times_average > season.times_average) & quiet)
        + 4.5 * (resold & at_night)
        + 3.0 * (at_night & (times_average > season.times_average / 2))
        + 5.0 * (a_trial & busy)
        + 4.0 * ((card["declines_7d"] >= 1) & busy & (times_average > 1))
        + 4.5 * ((card["card_age_days"] < 150) & (amount > 0.06 * card["credit_limit"]))
        + 3.0 * ((card["distance_from_home_km"] > 40) & (card["foreign_share_90d"] < 0.05) & (times_average > 1))
        + 3.5 * ((country == season.ring_in) & (cards.home != season.ring_in) & (times_average > 0.5))
        + 0.8 * card["home_country_risk"]
        + 0.2 * np.log(times_average)
    )
    probability = _sigmoid(log_odds)
    inputs: Inputs = {
        "amount": amount[:, None].astype(np.float32),
        "merchant_category": merchant[:, None],
        "hour": hour[:, None].astype(np.float32),
        "country": country[:, None],
        "card_features": cards.features,
    }
    return Transactions(inputs, (random.random(rows) < probability).astype(np.int64), probability)


def _sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-log_odds))
