"""The process that hands a run's metrics to wandb; see deeprec/trainer/logger.py."""

import json
import os
import sys


def main() -> None:
    # an interactive question would never be answered here
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb  # starts threads of its own

    first = json.loads(sys.stdin.readline())
    run = wandb.init(resume="allow", **first)
    for line in sys.stdin:
        row = json.loads(line)
        run.log(row, step=row["step"])
    run.finish()


if __name__ == "__main__":
    main()
