"""What turns sums of updates, or updates, into one update."""

from shared.core.robust.mean import mean

__all__ = ["mean"]
