"""Classifying unlabelled texts with an exported model: input, batches, and output by parts."""
