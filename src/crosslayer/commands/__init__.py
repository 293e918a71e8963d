"""One command = one file: its options and what it prints."""
