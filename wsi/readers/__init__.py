"""One module per reader; see `coverslip.wsi.registry`."""
