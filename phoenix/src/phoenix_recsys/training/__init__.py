"""Training both models on your own events; arrays in, two artifact directories out."""

from __future__ import annotations

from phoenix_recsys.training.errors import TrainingError, TrainingInterrupted
from phoenix_recsys.training.interactions import Catalogue, Interactions
from phoenix_recsys.training.recipe import ML_100K, WORLD, ModelRecipe, RankerRecipe, Recipe, RetrievalRecipe
from phoenix_recsys.training.train import TrainingReport, train_phoenix

__all__ = [
    "ML_100K",
    "WORLD",
    "Catalogue",
    "Interactions",
    "ModelRecipe",
    "RankerRecipe",
    "Recipe",
    "RetrievalRecipe",
    "TrainingError",
    "TrainingInterrupted",
    "TrainingReport",
    "train_phoenix",
]
