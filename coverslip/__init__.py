"""Coverslip: whole-slide analysis for digital pathology."""
