"""The demo: both stages on embedded images."""
