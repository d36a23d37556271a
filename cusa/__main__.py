"""`python -m cusa`: the command line, also as `torchrun --nproc-per-node=4 -m cusa train ...`."""

from cusa.cli import main

if __name__ == "__main__":
    main()
