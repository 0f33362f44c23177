"""Declared steps on a model's answer: what becomes of its outputs is worked out at load, and done on all rows at once."""
