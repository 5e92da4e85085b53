"""Iterative magnitude pruning: tickets of weights instead of patches."""
