"""The two stages, the models and the data streams they share."""
