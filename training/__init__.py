"""Makes every model the services run, and measures what each is worth."""
