"""Auditing the private step: canaries that are guessed from what it releases, and its noise's variance."""

from services.client.training.auditing.run import AuditReport, NoiseTest, audit

__all__ = ["AuditReport", "NoiseTest", "audit"]
