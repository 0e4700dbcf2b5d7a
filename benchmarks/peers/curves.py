"""Lists of other libraries after each bit of training, and the CPU seconds it took so far.

    PYTHON peers/curves.py SYSTEM FOLDER

SYSTEM is irspack_multvae, irspack_ials, implicit_als or ease. FOLDER holds rows.npz: offsets and
items of the training histories, num_items, and the rows of the users to make lists for. Writes
LISTS/N.npy (int32, 100 items a user, best first, none of the history) and prints a line of JSON
for each: CPU seconds of training until then, all threads, and wall seconds.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

CUTOFF, EPOCHS = 100, {"irspack_multvae": 40, "irspack_ials": 10, "implicit_als": 15}
Scores = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]]


def irspack_multvae(rows: sparse.csr_matrix) -> Iterator[Scores]:
    """As its authors' paper has it: 600 hidden units, 200 latent; batches of 500."""
    from irspack.recommenders.multvae import MultVAERecommender

    model = MultVAERecommender(
        rows, dim_z=200, enc_hidden_dims=600, minibatch_size=500, anneal_end_epoch=40
    )
    model.start_learning()
    for _ in range(EPOCHS["irspack_multvae"]):
        model.run_epoch()
        yield model.get_score


def irspack_ials(rows: sparse.csr_matrix) -> Iterator[Scores]:
    from irspack import IALSRecommender

    model = IALSRecommender(rows, n_components=128, alpha0=0.1, reg=0.01, n_threads=1)
    model.start_learning()
    for _ in range(EPOCHS["irspack_ials"]):
        model.run_epoch()
        yield model.get_score


def implicit_als(rows: sparse.csr_matrix) -> Iterator[Scores]:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(64, alpha=3.0, regularization=10.0, iterations=1, num_threads=1)
    for _ in range(EPOCHS["implicit_als"]):
        model.fit(rows, show_progress=False)  # goes on with the factors that it has
        yield lambda users: model.user_factors[users] @ model.item_factors.T


def ease(rows: sparse.csr_matrix) -> Iterator[Scores]:
    """Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019."""
    gram = (rows.T @ rows).toarray().astype(np.float32)
    gram[np.diag_indices(len(gram))] += 1000.0
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    yield lambda users: rows[users] @ weights


def main(system: str, folder: Path) -> None:
    made = np.load(folder / "rows.npz")
    offsets, items, users = made["offsets"], made["items"], made["users"]
    shape = len(offsets) - 1, int(made["num_items"])
    rows = sparse.csr_matrix((np.ones(len(items), np.float32), items, offsets), shape=shape)
    started = time.process_time(), time.perf_counter()
    for count, scores in enumerate(globals()[system](rows)):
        cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
        np.save(folder / f"{count}.npy", lists(rows, users, scores))
        print(json.dumps({"cpu": cpu, "wall": wall}), flush=True)
        started = time.process_time() - cpu, time.perf_counter() - wall  # lists are not training


def lists(
    rows: sparse.csr_matrix, users: npt.NDArray[np.int64], scores: Scores
) -> npt.NDArray[np.int32]:
    found = []
    for start in range(0, len(users), 1024):
        some = users[start : start + 1024]
        scored = np.array(scores(some), np.float32)
        scored[rows[some].nonzero()] = -np.inf
        found.append(np.argsort(-scored, axis=1, kind="stable")[:, :CUTOFF])
    return np.concatenate(found).astype(np.int32)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
