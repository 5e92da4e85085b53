"""Commands, one module each. Heavy imports stand inside the functions, so that --help answers at once."""
