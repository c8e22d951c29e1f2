"""Immunohistochemistry: stained nuclei, cells and membranes, read by each marker's own rule."""
