"""`python -m raysparsex.cli`."""

import sys

from raysparsex.cli import main

sys.exit(main())
