"""What the Triton passes share. Only what is imported at the first launch imports Triton."""
