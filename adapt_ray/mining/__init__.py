"""Closed frequent token sequences: search, partitions of it, scores and the choice of tokens."""
