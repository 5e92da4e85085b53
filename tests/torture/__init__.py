"""Torture: processes killed at drawn moments, bits flipped, disks filled, locks raced; nothing lost, nothing wrong."""
