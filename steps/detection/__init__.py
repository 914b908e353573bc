"""Detection: Mask R-CNN on a pretrained plain vision transformer (ViTDet), run by mmdet."""
