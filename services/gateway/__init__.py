"""The gateway: what people see of the federation, and how they ask it for work."""
