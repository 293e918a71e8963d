"""A page that shows what a classifier sees, here or as a Space of the Hugging Face Hub."""
