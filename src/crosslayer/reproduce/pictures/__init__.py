"""A study's results as pictures, each readable in grey."""
