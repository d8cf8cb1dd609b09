"""`python -m pargolf`, and so `torchrun -m pargolf`: the command line."""

from pargolf.cli import main

if __name__ == "__main__":
    main()
