"""EfficientAT's mn04: the network that knows AudioSet's sounds, as a teacher and as where a student begins."""
