"""The paper's tables and figures, and the questions it leaves open: what to run, running it, what came out."""
