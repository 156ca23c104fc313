"""Who is who in a federation: its certificate authority, one-time and API tokens, roles. Pure."""
