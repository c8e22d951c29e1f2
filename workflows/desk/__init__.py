"""The pathologist's desk: napari's window with the panels in which a result is reviewed."""
