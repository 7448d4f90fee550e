"""What every recipe needs: settings from the command line, networks, trainings, and what surrounds a run.

Nothing heavy is imported before a run begins, so that `--help` is answered at once.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2]))  # the library of this clone, whichever one is installed
