"""Stage two: students on shards joined with their tickets, and tests of them."""
