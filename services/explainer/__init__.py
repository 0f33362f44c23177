"""The explainer: attributes predictions of any model behind OIP to its features. A leaf that asks another service."""
