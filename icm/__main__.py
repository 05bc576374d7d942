"""`python -m icm` is the `icm` command."""

import sys

from icm.cli import main

sys.exit(main())
