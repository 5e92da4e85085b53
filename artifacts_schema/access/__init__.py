"""Objects of a store, wherever it is: in a folder, in a zip file, or behind a URL."""
