"""Servers that stores are read from in tests: plain HTTP(S), S3, Google's storage, the hub. All on this machine."""
