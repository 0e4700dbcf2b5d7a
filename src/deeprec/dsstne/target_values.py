"""Whether what an output data set holds is values, and how the loss of a network reads them."""

import numpy as np

from deeprec.dsstne.data_set import Attribute, DataSet
from deeprec.dsstne.mapped import Mapped
from deeprec.dsstne.network import Activation, Error, Layer, Network
from deeprec.errors import ConfigError, DataError

ALWAYS = (Error.L2, Error.L2_HINGE, Error.DATA_SCALED_MARGINAL)  # of a dense or sparse data set
DENSE = (Error.L1, Error.HINGE, Error.CROSS_ENTROPY)  # of a sparse one they take 1


def read_values(to: Mapped, network: Network, output: Layer, data_set: DataSet) -> bool:
    """Makes the loss read values where DSSTNE's does; returns whether it reads any.

    A dense data set is a sparse one that stores what is not 0: by every error, a column that should
    be 0 costs the same in both.

    Raises:
        ConfigError: zeros are to be ignored, and the loss compares them with the others.
        DataError: values of a cross entropy lie outside [0, 1].
    """
    error, of_softmax = network.error, output.activation == Activation.SOFT_MAX
    if Attribute.SPARSE_IGNORE_ZERO in data_set.attributes:
        _ignore_zeros(to)
    if Attribute.BOOLEAN in data_set.attributes:
        return False
    reads = error in ALWAYS or (error in DENSE and not data_set.is_sparse)
    if of_softmax and error == Error.CROSS_ENTROPY:
        reads, to.loss["normalise_targets"] = True, False
    elif error == Error.CROSS_ENTROPY and reads:
        _check_shares(data_set)
        to.choices["loss"] = "regression"
        scales = {name: to.loss[name] for name in ("one_scale", "zero_scale")}
        to.loss = {"error": "cross_entropy", "output": "sigmoid", "values": True, **scales}
    elif reads and error != Error.DATA_SCALED_MARGINAL:
        to.loss["values"] = True
        if error in (Error.L2, Error.L2_HINGE):
            to.loss["one_scale"] = network.boost[0]  # of values whatever the activation
    return reads


def _check_shares(data_set: DataSet) -> None:
    _, _, values = data_set.rows()
    if len(values) and not (np.min(values) >= 0.0 and np.max(values) <= 1.0):
        wrong = values[(values < 0.0) | (values > 1.0)][0]
        raise DataError(
            f"data set {data_set.name!r}: what a cross entropy is compared with must lie in [0, 1],"
            f" got {wrong:g}; scale it, or take ErrorFunction L2"
        )


def _ignore_zeros(to: Mapped) -> None:
    """Leaves columns that an example does not have out of the loss."""
    if to.choices["loss"] == "softmax":
        raise ConfigError(
            "the output data set has SparseIgnoreZero, and in a softmax every column competes; "
            "take a sigmoid output"
        )
    to.loss["zero_scale"] = 0.0
