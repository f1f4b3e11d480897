"""Real model files by others, found through STEPSTREAM_CASES."""

import numpy as np
import pytest

import stepstream


def test_the_gru_model_gives_its_reference(cases):
    model = stepstream.load(cases / "emg" / "gru_model.keras")
    reference = np.load(cases / "emg" / "reference.npz")
    result = model.verify(reference["gru_model.keras|x0"], reference["gru_model.keras|y0"])
    assert result.ok, result


@pytest.mark.parametrize("name", ["lstm2_first", "RNN2__Saved_models_30ms_2state__model"])
def test_models_that_make_their_time_axis_inside_are_refused(cases, name):
    model = stepstream.load(cases / "emg" / f"{name}.keras")
    blockers = {b.layer: b for b in model.check().blockers}
    assert "time axis" in blockers["reshape"].reason
    with pytest.raises(stepstream.BlockedError, match="reshape"):
        model.stream()
