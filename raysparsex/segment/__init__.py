"""What is shared: prompts cut into segments, named and found again. No I/O, no torch."""
