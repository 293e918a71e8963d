"""python -m crosslayer, which is what `accelerate launch -m crosslayer` runs."""

import sys

from crosslayer.cli import main

sys.exit(main())
