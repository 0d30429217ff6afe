"""The daemon, whose own watch on the event loop looks every few milliseconds and logs what it sees.

python watched.py PROGRAM serve …
"""

from __future__ import annotations

import sys

from cri_imaged.cli.main import main
from cri_imaged.obs import stalls

SECONDS = 0.004

if __name__ == "__main__":
    stalls.STALL_SECONDS = stalls.PERIOD_SECONDS = SECONDS
    del sys.argv[0]
    main()
