"""Samples: packing them into shards, streaming them out again, joining them with their tickets."""
