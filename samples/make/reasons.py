"""What is said of a feature where it moved a score: texts in the manner of adverse-action notices, by feature and direction.

"up" is towards the model's last class (a default, a fraud), which is the adverse one. `{value}` is where the row's own value may
stand; a text without it tells nobody's figures.
"""

__all__ = ["CREDIT_REASONS", "FRAUD_REASONS"]


def _texts(up: str, down: str) -> dict[str, str]:
    return {"up": up, "down": down}


CREDIT_REASONS = {
    "amount": _texts(
        "Amount of credit requested is too high ({value} EUR)", "Amount of credit requested is modest ({value} EUR)"
    ),
    "term_months": _texts(
        "Length of the term requested ({value} months)", "Length of the term requested ({value} months) is suitable"
    ),
    "purpose": _texts(
        "Purpose of the credit requested: {value}", "Purpose of the credit requested is of low risk: {value}"
    ),
    "income_monthly": _texts(
        "Income insufficient for the amount of credit requested", "Income sufficient for the amount of credit requested"
    ),
    "debt_to_income": _texts(
        "Excessive obligations in relation to income ({value})", "Low obligations in relation to income ({value})"
    ),
    "credit_utilisation": _texts(
        "Proportion of balances to credit limits is too high ({value})",
        "Proportion of balances to credit limits is low ({value})",
    ),
    "delinquencies_24m": _texts(
        "Delinquent past or present credit obligations in the last 24 months ({value})",
        "No or few delinquencies in the last 24 months ({value})",
    ),
    "oldest_account_months": _texts(
        "Length of time accounts have been established is too short ({value} months)",
        "Accounts have been established for a long time ({value} months)",
    ),
    "inquiries_6m": _texts(
        "Too many inquiries in the last 6 months ({value})", "Few inquiries in the last 6 months ({value})"
    ),
    "employment_years": _texts(
        "Length of employment ({value} years)", "Length of employment ({value} years) is favourable"
    ),
    "open_accounts": _texts("Number of open accounts ({value})", "Number of open accounts ({value}) is favourable"),
    "housing": _texts("Housing situation: {value}", "Housing situation is favourable: {value}"),
    "region": _texts("Labour market of the region: {value}", "Labour market of the region is favourable: {value}"),
}

FRAUD_REASONS = {
    "amount": _texts("Amount is unusual ({value} EUR)", "Amount is ordinary ({value} EUR)"),
    "merchant_category": _texts("Kind of merchant: {value}", "Kind of merchant is ordinary: {value}"),
    "hour": _texts("Hour of the day is unusual ({value})", "Hour of the day is ordinary ({value})"),
    "country": _texts("Country of the transaction: {value}", "Country of the transaction is ordinary: {value}"),
    "card_age_days": _texts(
        "Card was issued only lately ({value} days ago)", "Card was issued long ago ({value} days)"
    ),
    "credit_limit": _texts("Amount in relation to the card's limit", "Limit of the card ({value} EUR)"),
    "average_amount_30d": _texts(
        "Amount in relation to the card's average ({value} EUR)", "Card's average amount is ordinary ({value} EUR)"
    ),
    "transactions_24h": _texts(
        "Number of transactions in the last 24 hours ({value})",
        "Number of transactions in the last 24 hours is ordinary ({value})",
    ),
    "declines_7d": _texts("Transactions declined in the last 7 days ({value})", "No recent declines ({value})"),
    "distance_from_home_km": _texts("Card used far from home ({value} km)", "Card used near home ({value} km)"),
    "foreign_share_90d": _texts(
        "Share of transactions abroad in the last 90 days ({value})",
        "Share of transactions abroad is ordinary ({value})",
    ),
    "home_country_risk": _texts("Risk of the card's home country ({value})", "Risk of the card's home country is low"),
}
