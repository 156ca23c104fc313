"""What every fedlora service shares: events, pure mathematics, ports and their adapters."""
