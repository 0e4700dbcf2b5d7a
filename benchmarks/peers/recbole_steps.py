"""Steps of RecBole's MultiDAE, one for each line of standard input: the number of threads.

The line `lists` asks for lists.npy instead: 100 items of each of the users in users.npy.

    PYTHON peers/recbole_steps.py FOLDER

FOLDER holds rows.npz (offsets, items), start.pt (weights, named as by `Dense`; none: RecBole's own)
and settings.json (batch_users, hidden_dims, lr, dropout). Loader, loss, optimizer and the order of
work of a step are RecBole's. Prints the wall seconds, CPU seconds and loss of each step as JSON.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import recbole_patches  # noqa: F401  # before recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.utils import get_dataloader
from recbole.model.general_recommender import MultiDAE
from recbole.trainer import Trainer
from recbole.utils import init_seed


def main(folder: Path) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # RecBole talks
    settings = json.loads((folder / "settings.json").read_text())
    config = configured(folder, settings)
    init_seed(1, True)
    dataset = create_dataset(config).build()[0]
    loader = get_dataloader(config, "train")(config, dataset, None, shuffle=True)
    model = MultiDAE(config, dataset)
    if start := torch.load(folder / "start.pt"):
        begin_at(model, start, dataset)
    trainer = Trainer(config, model)
    model.train()
    batches = endless(loader)
    for line in sys.stdin:
        if line.strip() == "lists":
            users = np.load(folder / "users.npy")
            np.save(folder / "lists.npy", lists(model, dataset, users))
            print("made", file=answers, flush=True)
            continue
        torch.set_num_threads(int(line))
        print(json.dumps(step(trainer, model, batches)), file=answers, flush=True)


@torch.no_grad()
def lists(model: MultiDAE, dataset: object, users: np.ndarray) -> np.ndarray:
    """In our indices of items."""
    rows_of = {token: row for row, token in enumerate(dataset.field2id_token["user_id"])}
    items = dataset.field2id_token["item_id"][1:].astype(np.int32)
    model.eval()
    found = []
    for start in range(0, len(users), 500):
        rows = torch.tensor([rows_of[f"u{user}"] for user in users[start : start + 500]])
        seen = model.get_rating_matrix(rows)
        scores = model.forward(seen).masked_fill(seen > 0, -torch.inf)[:, 1:]
        found.append(items[scores.topk(100).indices.numpy()])
    model.train()
    return np.concatenate(found)


def configured(folder: Path, settings: dict) -> Config:
    write_events(folder / "rows.npz", folder / "made" / "made.inter")
    *hidden, latent = settings["hidden_dims"][: len(settings["hidden_dims"]) // 2 + 1]
    return Config(
        model="MultiDAE",
        dataset="made",
        config_dict={
            "data_path": str(folder),
            "load_col": {"inter": ["user_id", "item_id"]},
            "user_inter_num_interval": None,
            "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "RO", "group_by": None},
            "mlp_hidden_size": hidden,
            "latent_dimension": latent,
            "dropout_prob": settings["dropout"],
            "learning_rate": settings["lr"],
            "train_batch_size": settings["batch_users"],
            "train_neg_sample_args": None,
            "use_gpu": False,
            "show_progress": False,
            "checkpoint_dir": str(folder / "saved"),
        },
    )


def write_events(rows: Path, path: Path) -> None:
    made = np.load(rows)
    users = np.repeat(np.arange(len(made["offsets"]) - 1), np.diff(made["offsets"]))
    path.parent.mkdir()
    lines = (f"u{user}\t{item}" for user, item in zip(users, made["items"]))
    path.write_text("user_id:token\titem_id:token\n" + "\n".join(lines) + "\n")


def begin_at(model: MultiDAE, start: dict, dataset: object) -> None:
    """Gives the model these weights; row 0 of RecBole's items is padding."""
    tokens = dataset.field2id_token["item_id"][1:].astype(np.int64)
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    with torch.no_grad():
        for index, layer in enumerate(linear):
            weight, bias = start[f"layers.{index}.weight"], start[f"layers.{index}.bias"]
            if index == 0:
                weight = torch.cat([weight.new_zeros(len(weight), 1), weight[:, tokens]], 1)
            if index == len(linear) - 1:
                weight = torch.cat([weight.new_zeros(1, weight.shape[1]), weight[tokens]])
                bias = torch.cat([bias.new_full((1,), bias.min().item()), bias[tokens]])
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def endless(loader: object) -> object:
    while True:
        yield from loader


def step(trainer: Trainer, model: MultiDAE, batches: object) -> dict:
    """As `Trainer._train_epoch` does it."""
    wall, cpu = time.perf_counter(), time.process_time()
    interaction = next(batches)
    trainer.optimizer.zero_grad()
    loss = model.calculate_loss(interaction.to(trainer.device))
    trainer._check_nan(loss)
    loss.backward()
    trainer.optimizer.step()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "loss": loss.item(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
