"""Fuzzing: documents, arrays, parts and shards that are changed at random. Only dataltt's own errors may come out.

The suite tries a few changes. `make fuzz` tries others for as long as it is told to. An input that broke something
stays in tests/data/fuzz, whose files test_fuzz_corpus.py reads; the first part of a file's name says what it is.
"""
