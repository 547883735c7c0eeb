"""Where samples lie: epochs, gaps between them, tracks, and the points from which to go on after a restart."""
