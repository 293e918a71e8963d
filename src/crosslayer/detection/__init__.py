"""Detection and instance segmentation: Faster and Mask R-CNN, COCO's data and measures, and how a detector trains."""
