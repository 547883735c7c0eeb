"""From audio to chunks on the wire and back to the ledger: windows, sending, acks, the durable checkpoint."""
