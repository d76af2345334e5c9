"""`python -m fairway`: the program `fairway`, with the same commands and exit codes."""

import sys

from fairway._fairway import run_command

if __name__ == "__main__":
    sys.stdout.flush()
    sys.exit(run_command(sys.argv[1:]))
