"""Published weights in bf16 on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.test_published import KINDS, published_state
from tlp_export import export
from tlp_export.options import ExportOptions
from tlp_runtime.engines.openvino import computes_bf16
from tlp_runtime.engines.select import choose
from tlp_train.checkpoint import load_checkpoint
from tlp_train.importing import import_weights


@pytest.mark.proof
def test_in_bf16_on_a_cpu_they_give_it_as_well_as_bf16_can(
    fixtures_dir: Path, tmp_path: Path
) -> None:
    """49 dB: these weights are random and strongly scaled; PyTorch's own bf16 gives 48.8."""
    if not computes_bf16():
        pytest.skip("this processor does not compute in bf16")
    path = tmp_path / "dual.pth"
    torch.save(published_state(fixtures_dir, "dual"), path)
    checkpoint = load_checkpoint(
        import_weights(path, KINDS["dual"], tmp_path / "a.ckpt", overwrite=False)
    )
    exported = export(checkpoint, ExportOptions(precision="bf16"), out=tmp_path / "bundle")
    executors = {check.executor for check in exported.parity.checks}
    assert any(executor.startswith("openvino") for executor in executors)
    names = checkpoint.spec.tensor_names
    with np.load(fixtures_dir / "authors_dual_dim8.npz") as data:
        tiled = {name: np.tile(data[f"input.{name}"], (1, 1, 4, 4)) for name in names}
    with torch.no_grad():
        whole = checkpoint.generator().double()(
            *(torch.from_numpy(tiled[name]).double() for name in names)
        )
    with choose(device="cpu", bundle=exported.bundle).open(exported.bundle) as engine:
        found = engine.run(tiled)
    assert np.isfinite(found).all()
    assert 20 * np.log10(2 / np.sqrt(np.square(found - whole.numpy()).mean())) >= 48.5
