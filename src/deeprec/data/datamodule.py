"""The batches of a run, in the form Lightning asks for them."""

from lightning.pytorch import LightningDataModule

from deeprec.batch import Arranged
from deeprec.data.dataset import Batches, JudgedBatches
from deeprec.data.packed import Packed, packed, pinned


class DataModule(LightningDataModule):
    """Training batches, and those a model is validated on between epochs."""

    def __init__(self, training: Batches, validation: JudgedBatches) -> None:
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self) -> Batches:
        return self.training


def to_be_fetched(batch: Arranged | Packed) -> Packed:
    """The batch in page-locked memory, from which CUDA fetches it while the program goes on."""
    if not isinstance(batch, Packed):
        return packed(batch, pinned)
    memory = pinned(len(batch.memory))
    return batch._replace(memory=memory.copy_(batch.memory))
