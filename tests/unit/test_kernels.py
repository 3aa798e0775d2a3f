"""The compiled loops on their own; what they add up to is proved in test_als_model and test_als_items."""

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.als import kernels
from recsys.session import ROOT
from tests.oracles import als as oracle

Array = NDArray[Any]


def test_a_blocks_share_of_the_items_sums_is_added_to_what_is_there() -> None:
    """No step is taken, so users stay as they are; of two codes the first stands for (w, b) = (1, 2)."""
    y = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    q = np.array([[0.5, 0.5], [1.0, 0.0]], np.float32)
    offsets, items = np.array([0, 2, 3]), np.array([0, 1, 1], np.uint16)
    w, b = np.array([1.0, 2.0, 0.5], np.float32), np.array([2.0, 3.0, 1.0], np.float32)
    residuals, weights = np.ones((2, 2), np.float32), np.empty(2, np.float32)
    codes = np.array([0, 1, 2], np.uint8)

    x = y.copy()
    loss, _ = kernels.solve_users(
        q, np.zeros((2, 2)), offsets, items, codes, w, b, np.ones(2), False, False, 0, x, weights, residuals
    )

    np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(weights, [3.0, 0.5])
    # s = y.q: 1.5, 1, 3; b - w s: 0.5, 1, -0.5
    np.testing.assert_allclose(residuals, [[1 + 0.5, 1 + 1.0], [1 + 1.0 - 1.5, 1 + 2.0 + 0.5]])
    # w s^2 - 2 b s: 2.25 - 6, 2 - 6, 4.5 - 6
    np.testing.assert_allclose(loss, -3.75 - 4.0 - 1.5)

    matrices = np.ones((2, 3), np.float32)
    kernels.add_item_matrices(y, offsets, items, codes, w, matrices)
    # y y' of the users, lower triangles: (1, 2, 4) and (9, -3, 1)
    np.testing.assert_allclose(matrices, [[1 + 1, 1 + 2, 1 + 4], [1 + 2 + 4.5, 1 + 4 - 1.5, 1 + 8 + 0.5]])


def test_a_direction_is_multiplied_by_the_items_matrices() -> None:
    y, d = np.array([[1.0, 2.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    image = np.ones((1, 2), np.float32)
    kernels.apply_ratings(y, d, np.array([0, 1]), np.array([0], np.uint16), None, np.array([2.0], np.float32), image)
    np.testing.assert_allclose(image, [[1 + 6.0, 1 + 12.0]])


@dataclass(frozen=True)
class Block:
    """Users with 0 to 90 ratings, dense: R (U, I) values with NaN, of which there are five."""

    R: Array
    q: Array
    codes: Array
    values: Array
    offsets: Array
    items: Array

    @classmethod
    def made(cls, n_features: int, items_type: Any, seed: int = 4) -> "Block":
        rng = np.random.default_rng(seed)
        R = rng.integers(1, 6, (12, 90)).astype(float)
        R[rng.random(R.shape) > np.linspace(0, 1.05, len(R))[:, None]] = np.nan
        users, items = np.nonzero(~np.isnan(R))
        offsets = np.concatenate(([0], np.cumsum(np.bincount(users, minlength=len(R)))))
        q = (0.5 * rng.normal(size=(R.shape[1], n_features))).astype(np.float32)
        codes = (R[users, items] - 1).astype(np.uint8)
        return cls(R, q, codes, np.arange(1, 6, dtype=np.float32), offsets, items.astype(items_type))

    def solve(self, problem: oracle.Problem, *, coded: bool, exact: bool, steps: int = 0) -> tuple[Array, Array, Any]:
        """Users, the items' residuals and the loss, from the kernel."""
        v = self.values if coded else self.values[self.codes]
        implicit = problem.objective == "implicit"
        w = problem.alpha * v if implicit else np.ones_like(v)
        b = 1 + w if implicit else v - np.float32(problem.mean)
        reg = problem.reg * np.diff(self.offsets) ** problem.nu
        reg[np.diff(self.offsets) == 0] = -1
        features = self.q.astype(float)
        gram = problem.a0 * features.T @ features if implicit else np.zeros((features.shape[1],) * 2)
        x, weights = np.zeros((len(reg), features.shape[1]), np.float32), np.empty(len(reg), np.float32)
        residuals = np.zeros(self.q.shape, np.float32)
        codes = self.codes if coded else None
        loss, _ = kernels.solve_users(
            *(self.q, gram, self.offsets, self.items, codes, w, b, reg, problem.biases, exact, steps),
            *(x, weights, residuals),
        )
        np.testing.assert_allclose(weights, [w_u.sum() for w_u in self.dense(problem)[0]], rtol=1e-5)
        return x, residuals, loss

    def dense(self, problem: oracle.Problem) -> tuple[Array, Array]:
        """Weights and weighted targets (U, I), 0 where there is no rating."""
        R = np.nan_to_num(self.R)
        if problem.objective == "implicit":
            return problem.alpha * R, np.where(R > 0, 1 + problem.alpha * R, 0)
        return (R > 0).astype(float), np.where(R > 0, R - problem.mean, 0)


PROBLEMS = [
    oracle.Problem("explicit", reg=0.05),
    oracle.Problem("explicit", reg=0.05, biases=True, mean=2.9),
    oracle.Problem("implicit", reg=0.1, nu=0.5, alpha=2.0, a0=0.5),
]


@pytest.mark.parametrize("way", [{"exact": True}, {"exact": False, "steps": 60}], ids=["exact", "cg"])
@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize(("n_features", "items_type"), [(3, np.uint16), (17, np.uint32)])
@pytest.mark.parametrize("problem", PROBLEMS, ids=["explicit", "biases", "implicit"])
def test_one_pass_over_a_block_solves_its_users_and_leaves_the_items_their_residuals(
    problem: oracle.Problem, n_features: int, items_type: Any, coded: bool, way: dict[str, Any]
) -> None:
    block = Block.made(n_features, items_type)
    x, residuals, loss = block.solve(problem, coded=coded, **way)

    q = block.q.astype(float)
    q, bias = (q[:, :-1], q[:, -1]) if problem.biases else (q, np.zeros(len(q)))
    expected, x_bias = oracle.solve_side(problem, block.R, np.ones_like(block.R), q, bias)
    np.testing.assert_allclose(x, np.column_stack((expected, x_bias))[:, :n_features], atol=2e-4)
    w, b = block.dense(problem)
    S = expected @ q.T + x_bias[:, None] + bias
    y = np.column_stack((expected, np.ones(len(x))))[:, :n_features]
    np.testing.assert_allclose(residuals, (b - w * S).T @ y, atol=2e-3, rtol=1e-4)
    assert loss == pytest.approx(np.sum(w * S**2 - 2 * b * S), rel=1e-4)


def test_steps_from_zero_lower_the_loss_of_every_user_more_the_more_there_are() -> None:
    problem, block = oracle.Problem("explicit", reg=0.05), Block.made(17, np.uint16)
    reg = 0.05 * np.diff(block.offsets)

    def losses(steps: int) -> Array:
        x = block.solve(problem, coded=True, exact=False, steps=steps)[0].astype(float)
        errors = np.nan_to_num(block.R - x @ block.q.T.astype(float))
        loss: Array = np.sum(errors**2, axis=1) + reg * np.sum(x**2, axis=1)
        return loss

    by_steps = np.array([losses(steps) for steps in (0, 1, 2, 3, 5)])
    assert np.all(np.diff(by_steps, axis=0) <= 1e-4 * by_steps[0])
    assert np.all(by_steps[1, 2:] < by_steps[0, 2:])


def test_a_user_whose_residual_does_not_shrink_is_solved_exactly() -> None:
    """20,000 ratings, features on scales 1 to 100, almost no regularisation: a step on the small ones overshoots."""
    rng = np.random.default_rng(0)
    n, scales = 20_000, np.logspace(0, 2, 8)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(n, 8)))
    q = (orthogonal * np.sqrt(n) * scales).astype(np.float32)
    truth = rng.normal(size=8)
    b = (q.astype(float) @ truth).astype(np.float32)
    error = np.array([1.0] + [0.1] * 7) / scales**2
    x, weights = (truth + error).astype(np.float32)[None], np.empty(1, np.float32)
    _, rescued = kernels.solve_users(
        *(q, np.zeros((8, 8)), np.array([0, n]), np.arange(n, dtype=np.uint16), None, np.ones(n, np.float32), b),
        *(np.array([1e-9]), False, False, 2, x, weights, np.empty((0, 8), np.float32)),
    )
    assert rescued == 1
    np.testing.assert_allclose(x[0], truth, rtol=1e-4)


def test_kernels_run_from_a_zip_where_compiled_code_cannot_be_kept(tmp_path: Path) -> None:
    archive = tmp_path / "recsys.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted((ROOT / "recsys").rglob("*.py")):
            packed.write(file, file.relative_to(ROOT))
    use = "import numpy as np, recsys.als.kernels as k; print('.zip' in k.__file__, k._dot(np.ones(3), np.ones(3)))"
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": ""}
    printed = subprocess.run(
        [sys.executable, "-c", use],
        cwd=tmp_path,
        env=os.environ | nowhere | {"PYTHONPATH": str(archive)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed == "True 3.0\n"
