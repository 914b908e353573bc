"""Downstream evaluation of frozen features and of fine-tuned networks."""
