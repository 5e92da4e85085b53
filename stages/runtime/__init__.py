"""Processes, seeds, interrupts, progress: what any long work needs."""
