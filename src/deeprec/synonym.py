"""What RecBole, implicit and LightFM call a key or a choice; see docs/from-other-libraries.md.

Each name stands in lower case without anything between its letters, so that `MultiVAE`, `multi_vae`
and `multi-vae` are one.
"""

import re
from collections.abc import Collection

WIDTHS = ("model.width", "model.hidden_dims", "model.hidden_units", "model.code_dim")

# the first that the command has is meant
KEYS: dict[str, tuple[str, ...]] = {
    "learningrate": ("optimizer.lr",),
    "lr": ("optimizer.lr",),
    "learner": ("optimizer",),
    "weightdecay": ("optimizer.weight_decay",),
    "clipgradnorm": ("optimizer.clip_norm",),
    "epochs": ("trainer.max_epochs",),
    "iterations": ("trainer.max_epochs",),
    "trainbatchsize": ("trainer.batch_users",),
    "batchsize": ("trainer.batch_users",),
    "evalbatchsize": ("batch_users",),
    "stoppingstep": ("trainer.early_stopping_patience",),
    "evalstep": ("trainer.validate_every_epochs",),
    "validmetric": ("trainer.validation_cutoff",),
    "validationmetric": ("trainer.validation_cutoff",),
    "enableamp": ("trainer.precision",),
    "gpuid": ("trainer.device", "device"),
    "usegpu": ("trainer.device", "device"),
    "checkpointdir": ("output_dir",),
    "logwandb": ("logger.wandb",),
    "dataset": ("prepared",),
    "losstype": ("loss",),
    "embeddingsize": WIDTHS,
    "hiddensize": WIDTHS,
    "factors": WIDTHS,
    "nocomponents": WIDTHS,
    "mlphiddensize": ("model.hidden_dims",),
    "latentdimension": ("model.code_dim",),
    "nlayers": ("model.num_layers",),
    "nheads": ("model.num_heads",),
    "annealcap": ("model.beta",),
    "totalannealsteps": ("model.anneal_steps",),
    "dropoutprob": ("model.input_dropout", "model.dropout"),
    "hiddendropoutprob": ("model.dropout",),
    "maxitemlistlength": ("model.max_events",),
    "regweight": ("model.l2",),
    "regularization": ("model.l2",),
    "topk": ("cutoffs",),
    "valinterval": ("data.filters.minimum_value",),
    "userinternuminterval": ("data.filters.min_items_per_user",),
    "iteminternuminterval": ("data.filters.min_users_per_item",),
    "rmdupinter": ("data.filters.drop_duplicates",),
    "repeatable": ("data.repeats",),
}

# of a group; not all are the same, but none is nearer
CHOICES: dict[str, dict[str, str]] = {
    "model": {
        "pop": "popularity",
        "mostpop": "popularity",
        "itemknn": "item_to_item",
        "cosinerecommender": "item_to_item",
        "slimelastic": "sparse_ease",
        "multidae": "autoencoder",
        "multivae": "variational",
        "multvae": "variational",
        "simplex": "two_tower",
        "sasrec": "sequence_encoder",
        "gru4rec": "sequence_encoder",
        "bert4rec": "sequence_encoder",
        "lightgcn": "graph_filter",
        "als": "ials",
        "alternatingleastsquares": "ials",
        "bpr": "ials",
    },
    "loss": {"ce": "softmax", "bce": "sampled_binary", "warp": "softmax", "logistic": "marginal"},
}


def plain(name: str) -> str:
    """The name without what people write differently.

    Example:
        >>> plain("Multi-VAE")
        'multivae'
    """
    return re.sub(r"[\W_]", "", name).lower()


def key_for(name: str, known: Collection[str]) -> str | None:
    """The key among these that others call so.

    Example:
        >>> key_for("learning_rate", ["seed", "optimizer.lr"])
        'optimizer.lr'
    """
    return next((key for key in KEYS.get(plain(name), ()) if key in known), None)


def choice_for(group: str, name: str, known: Collection[str]) -> str | None:
    """The choice of a group that others call so, or that is written otherwise here.

    Example:
        >>> choice_for("model", "SASRec", ["ease", "sequence_encoder"])
        'sequence_encoder'
    """
    written = {plain(one): one for one in known}
    choice = CHOICES.get(group, {}).get(plain(name))
    return choice if choice in known else written.get(plain(name))
