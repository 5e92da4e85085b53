"""Models: the names dataltt knows, the ticket selector, the token-pruned student."""
