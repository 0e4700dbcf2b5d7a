"""Cosines: what is trained is what ranks, and stays one."""

from pathlib import Path

import pytest
import torch

import small_shop
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.fit import Trained
from deeprec.model.autoencoder import Autoencoder
from deeprec.train import train
from deeprec.trainer.run import open_run
from deeprec.verb import EvaluateConfig, ExportConfig

UNIT = ("loss=cosine_contrastive", "model.unit_vectors=true", "model.reconstruction=0")


def test_a_run_of_cosines_is_evaluated_and_exported(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    train(small_shop.settings(prepared, tmp_path / "run", *UNIT))
    run = open_run(tmp_path / "run")
    lengths = run.model.item_weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-5, rtol=0)
    assert not run.model.item_bias.any()
    evaluate(EvaluateConfig(run=str(run.path)))
    export(
        ExportConfig(run=str(run.path), output_dir=str(tmp_path / "bundle"), program=False)
    )  # compares


def test_scores_are_cosines() -> None:
    model = Autoencoder(9, hidden_dims=[4], unit_vectors=True).eval()
    encoded = model.encode(torch.tensor([3, 5]), torch.tensor([0, 2]), torch.zeros(0), {})
    assert encoded.hidden_BD.norm().item() == pytest.approx(1.0)
    scores = encoded.hidden_BD @ model.item_weight.T
    of_one_another = torch.cosine_similarity(encoded.hidden_BD, model.item_weight)
    torch.testing.assert_close(scores[0], of_one_another)


def test_models_whose_scores_are_no_cosines_are_refused() -> None:
    [said] = CosineContrastive(2).unfit(Trained(2, False, False, False, 1, False))
    assert "use model=two_tower, or model=autoencoder model.unit_vectors=true" in said
    assert CosineContrastive(2).unfit(Trained(2, False, True, False, 1, False)) == []
    with pytest.raises(ValueError, match="unit_vectors needs reconstruction=0"):
        Autoencoder(3, repeats=True, unit_vectors=True)
    with pytest.raises(ValueError, match=r"margin must be in \[-1, 1\), got 1"):
        CosineContrastive(2, margin=1.0)
    with pytest.raises(ValueError, match="negative_weight must be above 0, got 0"):
        CosineContrastive(2, negative_weight=0.0)
