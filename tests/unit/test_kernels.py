"""The compiled loops on their own; what they add up to is proved in test_als_model and test_als_items."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from recsys.als import kernels
from recsys.session import ROOT


def test_a_blocks_share_of_the_items_sums_is_added_to_what_is_there() -> None:
    y = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    q = np.array([[0.5, 0.5], [1.0, 0.0]], np.float32)
    offsets, items = np.array([0, 2, 3]), np.array([0, 1, 1], np.int32)
    w, b = np.array([1.0, 2.0, 0.5], np.float32), np.array([2.0, 3.0, 1.0], np.float32)
    residuals = np.ones((2, 2), np.float32)

    loss = kernels.add_item_residuals(y, q, offsets, items, w, b, residuals)

    # s = y.q: 1.5, 1, 3; b - w s: 0.5, 1, -0.5
    np.testing.assert_allclose(residuals, [[1 + 0.5, 1 + 1.0], [1 + 1.0 - 1.5, 1 + 2.0 + 0.5]])
    # w s^2 - 2 b s: 2.25 - 6, 2 - 6, 4.5 - 6
    np.testing.assert_allclose(loss, -3.75 - 4.0 - 1.5)

    matrices = np.ones((2, 3), np.float32)
    kernels.add_item_matrices(y, offsets, items, w, matrices)
    # y y' of the users, lower triangles: (1, 2, 4) and (9, -3, 1)
    np.testing.assert_allclose(matrices, [[1 + 1, 1 + 2, 1 + 4], [1 + 2 + 4.5, 1 + 4 - 1.5, 1 + 8 + 0.5]])


def test_a_direction_is_multiplied_by_the_items_matrices() -> None:
    """With targets of zero the residual of a direction is minus its product: ``-sum w (y.d) y``."""
    y, d = np.array([[1.0, 2.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    image = np.zeros((1, 2), np.float32)
    one, nothing = np.array([2.0], np.float32), np.zeros(1, np.float32)
    kernels.add_item_residuals(y, d, np.array([0, 1]), np.array([0], np.int32), one, nothing, image)
    np.testing.assert_allclose(image, [[-6.0, -12.0]])


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
