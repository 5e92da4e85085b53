"""Tests of pipeline/reports."""
