"""One HTML page of a folder of runs: self-contained, for a browser without network."""
