"""Stage one: tickets, and token labels, from shards into a store."""
