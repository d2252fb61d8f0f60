"""`python -m unmask`, which is also what `accelerate launch -m unmask` and `torchrun -m unmask` start."""

import sys

from unmask.cli.main import main

sys.exit(main())
