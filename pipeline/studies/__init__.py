"""Studies: comparisons of whole runs over seeds, from one command."""
