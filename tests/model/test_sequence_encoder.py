"""The sequence encoder."""

from deeprec.model.sequence_encoder import SequenceEncoder
from recommender_contract import NUM_ITEMS, RecommenderContract


class TestSequenceEncoder(RecommenderContract):
    def new_model(self) -> SequenceEncoder:
        return SequenceEncoder(NUM_ITEMS, width=8, max_events=4, num_heads=2)


class TestUntiedSequenceEncoder(RecommenderContract):
    def new_model(self) -> SequenceEncoder:
        return SequenceEncoder(
            NUM_ITEMS, width=6, max_events=50, num_layers=1, num_heads=1, tied=False
        )
