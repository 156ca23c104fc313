"""LoRA training with DP-SGD: the only place that imports torch."""
