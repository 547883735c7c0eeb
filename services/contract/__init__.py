"""What is on the wire and what its numbers mean: topics, messages, chunks, recipes, windows. The lowest room of all."""
