"""Sending stores to a folder, a zip file, a bucket or the hub, and fetching them whole."""
