"""`python -m coverslip`: the command line, where its script is not on the path."""

from coverslip.workflows.cli import main

if __name__ == "__main__":
    main()
