"""The commands. Each file of this folder holds one function of the file's own name, and is found by being here.

Files whose name begins with an underscore hold what commands share. Nothing here imports torch at the top: `--help`,
`list` and `hint` answer before torch would have begun to load.
"""

from __future__ import annotations

import sys

# Exit codes
FAILED = 1  # the answer is no: a kata that fails, a claim that is false, a solution that is not earned
MISUSED = 2  # what was passed is not understood: an unknown lesson, a size that is none
REFUSED = 3  # the machine refuses: a full disk, a file of a newer version, a port in use
BROKEN = 70  # a defect of ours
STOPPED = 130  # Ctrl-C


def main() -> None:
    """Run the command line."""
    try:
        from blackbelt.cli._application import run  # here, so that Ctrl-C is understood while it loads

        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(STOPPED)
