"""Policies that any service may wear; one class, one file, no library but the standard one."""

from infermesh.filters.circuit_breaker import CircuitBreaker
from infermesh.filters.logged import Logged
from infermesh.filters.measured import Measured
from infermesh.filters.retry import Retry, RetryBudget
from infermesh.filters.traced import Traced
from infermesh.filters.within_deadline import WithinDeadline

__all__ = ["CircuitBreaker", "Logged", "Measured", "Retry", "RetryBudget", "Traced", "WithinDeadline"]
