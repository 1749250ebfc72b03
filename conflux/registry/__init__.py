"""Finds plugins, keeps a broken one from breaking the rest, chooses and makes drivers."""

from conflux.registry.registry import ABCS, Candidate, Registry
from conflux.registry.report import Report, Stage

__all__ = ["ABCS", "Candidate", "Registry", "Report", "Stage"]
