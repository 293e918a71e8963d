"""Recipes, the loop, and what a run leaves behind."""
