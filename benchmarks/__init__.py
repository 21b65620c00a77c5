"""Reproducible comparisons: real models with real task metrics, peers, timing and tables."""
