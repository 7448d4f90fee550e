"""What every recipe needs: settings from the command line, networks, trainings, and what surrounds a run.

Nothing heavy is imported before a run begins, so that `--help` is answered at once.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # for a clone of which only the requirements are installed
