"""A result in the files of other programs: views of it, nothing is computed."""
