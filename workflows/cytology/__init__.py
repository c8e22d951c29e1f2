"""Cervical cytology: cells found and called, adequacy, a Bethesda category."""
