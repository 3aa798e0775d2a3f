"""Passes over user blocks in this process: whole fits without Spark."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from recsys.als.descent import Descent
from recsys.als.items import Matrix
from recsys.als.model import FactorModel, SolvedUsers, initial_model
from recsys.als.params import AlsParams
from recsys.als.sums import RatingSums, UserHalf, UserSums, add_image, count_block, ratings_of
from recsys.blocks.codec import CodedRatings


class LocalPasses:
    """What `recsys.als.sweep.BlockPasses` does; how many passes of each kind were made is counted."""

    def __init__(self, rows: Iterable[dict[str, Any]], params: AlsParams) -> None:
        self.blocks = [CodedRatings.from_row(row) for row in rows]
        self.params = params
        self.users: list[SolvedUsers | None] = [None] * len(self.blocks)
        self.user_passes = self.further_passes = 0

    def ratings(self, n_items: int) -> RatingSums:
        totals, by_item = np.zeros(6), np.zeros((2, n_items))
        for block in self.blocks:
            count_block(self.params, block, totals, by_item)
        return ratings_of(self.params, totals, by_item)

    def solve_users(self, model: FactorModel, *, exact_users: bool, with_matrices: bool) -> UserHalf:
        self.user_passes += 1
        sums = UserSums(model, exact_users=exact_users, with_matrices=with_matrices)
        self.users = [sums.add(block, users) for block, users in zip(self.blocks, self.users, strict=True)]
        return UserHalf.of(tuple(array.astype(np.float64) for array in sums.part()))

    def apply_ratings(self, direction: Matrix) -> Matrix:
        self.further_passes += 1
        image = np.zeros(direction.shape, np.float32)
        for block, users in zip(self.blocks, self.users, strict=True):
            assert users is not None
            add_image(self.params, block, users, direction.astype(np.float32), image)
        return image.astype(np.float64)

    def fit(self, n_items: int, sweeps: int) -> tuple[FactorModel, list[float]]:
        """A cold fit; the model and what every sweep told of the loss."""
        ratings = self.ratings(n_items)
        model = initial_model(self.params, n_items, ratings.mean if self.params.biases else 0.0)
        model = replace(model, item_factors=model.item_factors * (ratings.counts > 0)[:, None].astype(np.float32))
        descent = Descent(self, ratings, self.params)
        losses = []
        for number in range(sweeps):
            model, loss = descent.sweep(model, last=number == sweeps - 1)
            losses.append(loss)
        return model, losses

    def loss(self, model: FactorModel) -> float:
        """With the exact users of these items: what a one-pass sweep tells of the items it begins with."""
        passes = LocalPasses([], model.params.model_copy(update={"user_solver": "exact", "item_solver": "one-pass"}))
        passes.blocks, passes.users = self.blocks, [None] * len(self.blocks)
        descent = Descent(passes, passes.ratings(model.n_items), passes.params)
        return descent.sweep(replace(model, params=passes.params), last=False)[1]
