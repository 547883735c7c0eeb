"""Stations that are one endless HTTP response: Icecast, Shoutcast, and the small lists that name them."""
