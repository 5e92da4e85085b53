"""Baking: patches of stored views as a data set of their own."""
