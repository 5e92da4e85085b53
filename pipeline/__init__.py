"""The faces of dataltt: command line, progress, demo, benchmarks, reports."""
