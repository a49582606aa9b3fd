"""Cascade-Aware Training (arXiv 2406.00060): a small model that learns to share its work with a large one."""

__version__ = "0.1.0"
