"""Blockers: what cannot step on a stream, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Blocker:
    """A layer that cannot step. kind: its class in the file."""

    layer: str
    kind: str
    reason: str
    remedy: str


_DROP_FLATTEN = (
    "drop it and the last `return_sequences=True`, so that the last recurrent layer gives its latest value; retrain"
)
_CAUSAL = "replace it with a recurrent layer, which carries what it has seen; retrain"
_ONE_DIRECTION = "use the wrapped layer alone, in forward direction; retrain"
_LATEST = "take the last recurrent layer's latest value (`return_sequences=False`) instead; retrain"
_IN_SAMPLES = "feed the network samples with the time axis already in its input; retrain or rebuild with that input"
_STANDARD = "replace it with the standard layer that does the same"
_ONE_CHAIN = "rebuild the model as one chain of layers from one input"

# class name -> (reason, remedy)
REASONS: dict[str, tuple[str, str]] = {
    "Flatten": (
        "it joins all samples of a window into one vector, so nothing comes out before the last",
        _DROP_FLATTEN,
    ),
    "Bidirectional": ("its backward half needs the future of the stream", _ONE_DIRECTION),
    "RepeatVector": ("it feeds a value that is known only after the last sample back to the first", _LATEST),
    "Masking": (
        "masks computed from the values of a sample are not supported",
        "pass `mask=` to Stream.step, and rebuild the model without it",
    ),
    "Reshape": ("it changes what the time axis is, or makes one inside the model", _IN_SAMPLES),
    "Permute": ("it moves the time axis", _IN_SAMPLES),
    "Lambda": ("it holds code, and no code from a file is ever run", _STANDARD),
    "TFOpLambda": ("it calls a function by name, and no code from a file is ever run", _STANDARD),
}
for _names, _reason, _remedy in (
    ("MaxPooling1D AveragePooling1D GlobalMaxPooling1D GlobalAveragePooling1D GlobalMaxPool1D GlobalAveragePool1D",
     "it pools over time", _LATEST),
    ("Conv1D SeparableConv1D DepthwiseConv1D Conv1DTranspose LocallyConnected1D Cropping1D ZeroPadding1D UpSampling1D",
     "it works across time, over several samples at once", _CAUSAL),
    ("Conv2D Conv3D SeparableConv2D DepthwiseConv2D MaxPooling2D AveragePooling2D GlobalAveragePooling2D",
     "it works on images, not on samples of a stream", _CAUSAL),
    ("ConvLSTM1D ConvLSTM2D ConvLSTM3D", "its samples are images or frames, which are not supported", _CAUSAL),
    ("Attention AdditiveAttention MultiHeadAttention GroupQueryAttention GroupedQueryAttention",
     "every position looks at all others, later ones too", _CAUSAL),
    ("GroupNormalization UnitNormalization SpectralNormalization RMSNormalization",
     "this normalisation is not supported", "use LayerNormalization over the last axis; retrain"),
    ("Add Subtract Multiply Average Maximum Minimum Concatenate Dot Merge",
     "merging branches is not supported", _ONE_CHAIN),
    ("Sequential Functional Model", "a model inside a model is not supported", "put its layers into the outer model"),
    ("RNN StackedRNNCells LSTMCell GRUCell SimpleRNNCell CuDNNLSTM CuDNNGRU",
     "this form of recurrent layer is not supported", "use LSTM, GRU or SimpleRNN with the same weights"),
):  # fmt: skip
    REASONS |= dict.fromkeys(_names.split(), (_reason, _remedy))


def blocker(layer: str, kind: str) -> Blocker:
    """The blocker for a class that never steps, or that nobody here knows."""
    unknown = (
        "unknown layer: nothing here says how it computes, and no code from a file is ever run",
        "replace it with standard layers; retrain",
    )
    return Blocker(layer, kind, *REASONS.get(kind, unknown))
