"""What turns a slide into work: tissue, stain, tile plans, tile supply, pyramids."""
