"""One HTTP client with keep-alive for everything the fetcher asks for: limits, time-outs, retries, which addresses."""
