"""Watching from outside, in a terminal: the live table, the observer behind it, a fleet of boxes."""
