"""What ran, as data: epsilon is always derived from these. One file a kind."""

from shared.core.privacy.mechanisms.adaptive_clipping import AdaptiveClipping
from shared.core.privacy.mechanisms.composition import composed, without
from shared.core.privacy.mechanisms.gaussian import Mechanism, Unit

__all__ = ["AdaptiveClipping", "Mechanism", "Unit", "composed", "without"]
