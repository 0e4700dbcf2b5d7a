"""RecBole's own way from a file of events to batches: reads, remaps, sorts, splits, groups by user.

    PYTHON peers/recbole_loader.py FOLDER

FOLDER holds made/made.inter. Prints wall and CPU seconds (imports not counted) and peak MB as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import recbole_patches  # noqa: F401  # before recbole
from recbole.config import Config
from recbole.data import create_dataset, data_preparation


def main(folder: Path) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # RecBole talks
    config = Config(
        model="MultiDAE",
        dataset="made",
        config_dict={
            "data_path": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"RS": [0.8, 0.1, 0.1]},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "train_neg_sample_args": None,
            "use_gpu": False,
            "show_progress": False,
        },
    )
    wall, cpu = time.perf_counter(), time.process_time()
    data_preparation(config, create_dataset(config))
    told = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told), file=answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
