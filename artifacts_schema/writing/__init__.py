"""Making stores: parts of a selection or labelling, and their commit into a store."""
