"""What Coverslip costs, beside its peers and the limits of the machine. See docs/scale.md."""
