"""Real model files by others, found through STEPSTREAM_CASES."""

import numpy as np
import pytest

import stepstream


def test_the_gru_model_gives_its_reference(cases):
    model = stepstream.load(cases / "emg" / "gru_model.keras")
    reference = np.load(cases / "emg" / "reference.npz")
    result = model.verify(reference["gru_model.keras|x0"], reference["gru_model.keras|y0"])
    assert result.ok, result


def test_models_that_make_their_time_axis_inside_are_refused(cases):
    others = sorted(set((cases / "emg").glob("*.keras")) - {cases / "emg" / "gru_model.keras"})
    assert others
    for path in others:
        model = stepstream.load(path)
        blockers = {b.layer: b for b in model.check().blockers}
        assert "time axis" in blockers["reshape"].reason, path.name
        with pytest.raises(stepstream.BlockedError, match="reshape"):
            model.stream()
