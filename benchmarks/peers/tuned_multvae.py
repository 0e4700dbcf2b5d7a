"""Mult-VAE of irspack, its settings searched on validation; then its lists, seed by seed.

    PYTHON peers/tuned_multvae.py FOLDER TRIALS SEED...

FOLDER holds train.npz, validation.npz and judged.npz, each a scipy CSR matrix of users and items:
what is trained on, what follows, and the histories of those to make lists for. Trials are drawn by
Optuna's TPE, its authors' settings first, and chosen by ndcg@100 on the users of validation.npz, at
the best of the epochs. Writes lists-SEED.npy (int32, 100 items a user, best first, none of the
history) and found.json: CPU seconds of the search and of each seed, validations and settings.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from irspack.recommenders.multvae import MultVAERecommender
from scipy import sparse

CUTOFF, LOOK_EVERY, PATIENCE, MAX_EPOCHS = 100, 5, 3, 100
AUTHORS = {"dim_z": 200, "hidden": 600, "dropout": 0.5, "kl": 0.2, "lr": 0.001, "batch": 500}


def main(folder: Path, trials: int, seeds: list[int]) -> None:
    train, later, judged = (
        sparse.csr_matrix(sparse.load_npz(folder / f"{name}.npz"))
        for name in ("train", "validation", "judged")
    )
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    study.enqueue_trial(AUTHORS)
    began = time.process_time()
    study.optimize(lambda trial: fitted(suggested(trial), train, later)[0], n_trials=trials)
    found: dict[str, Any] = {
        "validation": study.best_value,
        "settings": study.best_params,
        "search_cpu": time.process_time() - began,
        "seeds": {},
    }
    for seed in seeds:
        np.random.seed(seed)  # the order of users; the first weights are always the same
        began = time.process_time()
        reached, model = fitted(study.best_params, train, later)
        found["seeds"][seed] = {"validation": reached, "cpu": time.process_time() - began}
        np.save(folder / f"lists-{seed}.npy", lists(model, judged))
        (folder / "found.json").write_text(json.dumps(found, indent=1))


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "dim_z": trial.suggest_int("dim_z", 64, 256, log=True),
        "hidden": trial.suggest_int("hidden", 200, 800, log=True),
        "dropout": trial.suggest_float("dropout", 0.2, 0.8),
        "kl": trial.suggest_float("kl", 0.05, 0.8, log=True),
        "lr": trial.suggest_float("lr", 3e-4, 5e-3, log=True),
        "batch": trial.suggest_categorical("batch", [125, 250, 500]),
    }


def fitted(
    settings: dict[str, Any], train: sparse.csr_matrix, later: sparse.csr_matrix
) -> tuple[float, MultVAERecommender]:
    """The best validation and the model as it then was."""
    model = MultVAERecommender(
        train,
        dim_z=settings["dim_z"],
        enc_hidden_dims=settings["hidden"],
        dropout_p=settings["dropout"],
        kl_anneal_goal=settings["kl"],
        anneal_end_epoch=40,
        minibatch_size=settings["batch"],
        learning_rate=settings["lr"],
    )
    model.start_learning()
    reached, worse = 0.0, 0
    for epoch in range(1, MAX_EPOCHS + 1):
        model.run_epoch()
        if epoch % LOOK_EVERY:
            continue
        now = validated(model, train, later)
        worse = 0 if now > reached else worse + 1
        if now > reached:
            reached = now
            model.save_state()
        if worse == PATIENCE:
            break
    model.load_state()
    return reached, model


def validated(
    model: MultVAERecommender, train: sparse.csr_matrix, later: sparse.csr_matrix
) -> float:
    """ndcg@100, the gains of the ideal list cut off at 100."""
    users = np.flatnonzero(np.diff(later.indptr))[:3000]
    found = lists(model, train[users])
    discount = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    total = 0.0
    for user, items in zip(users, found, strict=True):
        relevant = later.indices[later.indptr[user] : later.indptr[user + 1]]
        total += discount[np.isin(items, relevant)].sum() / ideal[min(len(relevant), CUTOFF)]
    return total / len(users)


def lists(model: MultVAERecommender, histories: sparse.csr_matrix) -> npt.NDArray[np.int32]:
    found = []
    for start in range(0, histories.shape[0], 1024):
        some = histories[start : start + 1024]
        scored = np.array(model.get_score_cold_user(some), np.float32)
        scored[some.nonzero()] = -np.inf
        part = np.argpartition(-scored, CUTOFF, axis=1)[:, :CUTOFF]
        order = np.argsort(-np.take_along_axis(scored, part, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(part, order, 1))
    return np.concatenate(found).astype(np.int32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(seed) for seed in sys.argv[3:]])
