"""The privacy ledger: reserves before anyone trains, and refuses what would overspend."""
