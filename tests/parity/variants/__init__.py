"""The tiny checkpoints that checkpoints.py makes, one file for each lineage: how tensors are named, and the rows."""
