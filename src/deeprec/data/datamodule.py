"""The batches of a run, in the form Lightning asks for them."""

from lightning.pytorch import LightningDataModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from deeprec.batch import Arranged
from deeprec.data.dataset import Batches, JudgedBatches


class DataModule(LightningDataModule):
    """Training batches, and those a model is validated on between epochs."""

    def __init__(self, training: Batches, validation: JudgedBatches) -> None:
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self) -> Batches:
        return self.training


def pinned(batch: Arranged) -> Arranged:
    """The batch in page-locked memory, from which Lightning moves it to CUDA without waiting."""
    moved: Arranged = apply_to_collection(batch, Tensor, Tensor.pin_memory)
    return moved
