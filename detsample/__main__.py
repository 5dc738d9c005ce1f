"""``python -m detsample``: the same as the command ``detsample``."""

import sys

from detsample.cli import main

sys.exit(main())
