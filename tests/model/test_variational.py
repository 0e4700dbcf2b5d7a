"""The variational autoencoder against its definition, and on the whole road."""

from deeprec.model.variational import Variational
from recommender_contract import FIELDS, NUM_ITEMS, RecommenderContract


class TestVariational(RecommenderContract):
    def new_model(self) -> Variational:
        return Variational(NUM_ITEMS, fields=FIELDS, hidden_dims=[8, 6], code_dim=5)


class TestVariationalWithoutDecoder(RecommenderContract):
    def new_model(self) -> Variational:
        return Variational(
            NUM_ITEMS,
            fields=FIELDS,
            hidden_dims=[8],
            code_dim=5,
            decoder_dims=[],
            history_weighting="decayed",
            quotient_remainder=list(FIELDS),
        )
