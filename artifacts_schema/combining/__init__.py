"""New stores made of others: merged, cut to a subset, thinned, extended. Every way writes a whole store or refuses."""
