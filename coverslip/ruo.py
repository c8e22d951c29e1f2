"""The sentence every screen, report and export carries (21 CFR 809.10(c)(2)(i))."""

RUO = "For Research Use Only. Not for use in diagnostic procedures."
