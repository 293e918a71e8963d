"""Passes over maps for CUDA. Only what is imported at the first launch imports Triton."""
