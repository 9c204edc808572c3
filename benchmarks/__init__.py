"""Benchmarks are questions: each file asks one and ends in a number."""
