"""From sources of images to batches of views: readers, Arrow files, augmentation, loader."""
