"""Measures of tickets and of finished runs; nothing here changes a store."""
