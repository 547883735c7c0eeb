"""From a segment's bytes to samples: containers, timestamps, tags, one long-lived decoder an epoch."""
