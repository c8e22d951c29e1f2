"""How well predictions agree with the truth: figures, their intervals, plots, and one document of them."""
