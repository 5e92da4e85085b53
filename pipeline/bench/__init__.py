"""Benchmarks: ratios of two things that are timed in turn within one run, so that a noisy machine cancels out."""
