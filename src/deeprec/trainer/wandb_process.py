"""The process that hands a run's metrics to wandb; see deeprec/trainer/logger.py."""

import json
import os
import select
import sys
import threading
import time

PATIENCE_SECONDS = 300.0  # for what is left to send once the run has ended


def end_after_the_run() -> None:
    """Ends this process some time after its input has ended, wherever it hangs."""
    watch = select.poll()
    watch.register(sys.stdin.fileno(), 0)  # nothing but a hang-up
    watch.poll()
    time.sleep(PATIENCE_SECONDS)
    os._exit(1)


def main() -> None:
    threading.Thread(target=end_after_the_run, daemon=True).start()
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
