"""Compile the kernels as the jobs call them, so that no run and no worker of one has to: run once by set-up.

numba keeps what it compiled beside the modules. Whatever is missing there is compiled when it is first called.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import numpy as np  # noqa: E402

from recsys.als.items import ItemHalf, solve_items  # noqa: E402
from recsys.als.model import initial_model  # noqa: E402
from recsys.als.params import AlsParams  # noqa: E402
from recsys.als.sums import UserHalf, UserSums, add_image  # noqa: E402
from recsys.blocks.codec import CodedRatings  # noqa: E402
from recsys.ranking.explain import explain_lists  # noqa: E402
from recsys.ranking.topn import Scorer, list_users  # noqa: E402

N_USERS, N_ITEMS, RANK = 20, 30, 4


def make_block(*, coded: bool) -> CodedRatings:
    """Five ratings of each user, as blocks hold them."""
    rng = np.random.default_rng(1)
    items = np.concatenate([rng.permutation(N_ITEMS)[:5] for _ in range(N_USERS)]).astype(np.uint16)
    offsets = np.arange(0, 5 * N_USERS + 1, 5, dtype=np.int64)
    if coded:
        return CodedRatings(offsets, items, rng.integers(2, size=len(items), dtype=np.uint8), np.float32([3, 5]), None)
    values = rng.uniform(1, 5, len(items)).astype(np.float32)
    return CodedRatings(offsets, items, None, values, np.ones_like(values))


def call_everything(params: AlsParams, block: CodedRatings) -> None:
    """A sweep, lists and their reasons, each kernel once."""
    model = initial_model(params, N_ITEMS)
    sums = UserSums(model, exact_users=True, with_matrices=True)
    users = sums.add(block, None)
    half = UserHalf.of(tuple(array.astype(np.float64) for array in sums.part()))
    assert half.matrices is not None  # noqa: S101
    q = model.item_parameters.astype(np.float64)
    solve_items(ItemHalf(q, half.residuals, half.gram, np.ones(N_ITEMS)), half.matrices)
    add_image(params, block, users, model.item_parameters, np.zeros_like(model.item_parameters))
    values, weights = block.decoded()
    items = block.items.astype(np.int32)
    prior = np.zeros(N_ITEMS, np.float32)
    scorer = Scorer(1.0, prior, prior)
    [(positions, _)] = list_users(model.item_factors, users.x, block.offsets, items, [scorer], 3)
    explain_lists(model, block.offsets, items, values, weights, positions, 2)


def main() -> int:
    """Compile for ratings with and without age weights, either objective."""
    for params in (AlsParams(rank=RANK), AlsParams(rank=RANK, objective="explicit", biases=True)):
        for coded in (True, False):
            call_everything(params, make_block(coded=coded))
    return 0


if __name__ == "__main__":
    sys.exit(main())
