"""Weights of official implementations: their names, file formats and reader."""
