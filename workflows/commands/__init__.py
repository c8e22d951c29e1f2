"""One module per sub-command of `coverslip`, each imported when it is called."""
