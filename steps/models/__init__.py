"""Backbones as timm models, and the parts that methods build around them."""
