"""Histology: tumour and its foci, grade, stroma, lymphocytes and mitoses, as far as a model's classes go."""
