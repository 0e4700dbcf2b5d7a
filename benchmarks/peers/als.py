"""Alternating least squares of irspack and of implicit, run by a Python that has them.

Reads two matrices, fits on the first, folds the users of the second in, and writes their factors
and what fitting cost. `benchmarks/gram.py` calls it:

    PYTHON benchmarks/peers/als.py SYSTEM FOLDER '{"width": 64, ...}'
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse


def irspack(train: Any, width: int, alpha0: float, reg: float, epochs: int) -> Any:
    from irspack import IALSRecommender

    return IALSRecommender(
        train,
        n_components=width,
        alpha0=alpha0,
        reg=reg,
        train_epochs=epochs,
        n_threads=1,
    ).learn()


def implicit(train: Any, width: int, alpha: float, reg: float, epochs: int) -> Any:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=width,
        alpha=alpha,
        regularization=reg,
        iterations=epochs,
        num_threads=1,
        random_state=0,
    )
    model.fit(train, show_progress=False)
    return model


def factors(system: str, model: Any, shown: Any) -> tuple[Any, Any]:
    if system == "irspack":
        return model.compute_user_embedding(shown.astype(np.float64)), model.get_item_embedding()
    return model.recalculate_user(np.arange(shown.shape[0]), shown), model.item_factors


def main() -> None:
    system, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    train = sparse.load_npz(folder / "train.npz").astype(np.float32)
    shown = sparse.load_npz(folder / "shown.npz").astype(np.float32)
    fit = {"irspack": irspack, "implicit": implicit}[system]
    wall, cpu = time.perf_counter(), time.process_time()
    model = fit(train, **settings)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    users, items = factors(system, model, shown)
    np.savez(folder / "factors.npz", users=users, items=items)
    (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
