"""Weights out: a backbone in the forms that other libraries load, held to its own outputs."""
