"""What networks learn from: GTZAN, its splits, taggrams, calibration clips."""
