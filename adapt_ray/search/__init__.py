"""Searching configurations: which to try next, and which to give up before their last seed."""
