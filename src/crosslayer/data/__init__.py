"""Images and labels: where they come from, and how batches of them reach the device."""
