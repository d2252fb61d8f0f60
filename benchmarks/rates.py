"""The package's own measures, under the name that the benchmarks have for them."""

from unmask.training.rate import flops_of_a_token, matrix_rate, wait_for

__all__ = ["flops_of_a_token", "matrix_rate", "wait_for"]
