"""The batches of a run, in the form Lightning asks for them."""

from lightning.pytorch import LightningDataModule

from deeprec.data.dataset import Batches, JudgedBatches


class DataModule(LightningDataModule):
    """Training batches, and those a model is validated on between epochs."""

    def __init__(self, training: Batches, validation: JudgedBatches) -> None:
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self) -> Batches:
        return self.training
