"""Scratchpads: programs are checked, executed in one byte buffer, and proven by the result."""
