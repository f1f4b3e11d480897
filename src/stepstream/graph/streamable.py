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
_WRAP = "; over one sample, inside TimeDistributed, it steps"

# class name -> (reason, remedy)
REASONS: dict[str, tuple[str, str]] = {
    "Flatten": (
        "it joins all samples of a window into one vector, and only a Dense layer behind it, with element-wise layers "
        "between, over a window of known length can be taken apart",
        _DROP_FLATTEN,
    ),
    "Bidirectional": ("its backward half needs the future of the stream", _ONE_DIRECTION),
    "RepeatVector": ("it feeds a value that is known only after the last sample back to the first", _LATEST),
    "Reshape": ("it changes what the time axis is", _IN_SAMPLES),
    "Permute": ("it moves the time axis", _IN_SAMPLES),
    "Lambda": ("it holds code, and no code from a file is ever run", _STANDARD),
}
for _names, _reason, _remedy in (
    ("TFOpLambda SlicingOpLambda ClassMethod InstanceMethod InstanceProperty TensorFlowOpLayer",
     "it calls a function by name, and no code from a file is ever run", _STANDARD),
    ("MaxPooling1D AveragePooling1D GlobalMaxPooling1D GlobalAveragePooling1D",
     "it pools over time", _LATEST + _WRAP),
    ("Conv1D SeparableConv1D DepthwiseConv1D ZeroPadding1D",
     "it works across time, over several samples at once", _CAUSAL + _WRAP),
    ("Conv1DTranspose LocallyConnected1D Cropping1D UpSampling1D Convolution1D AtrousConvolution1D",
     "it works across time, over several samples at once", _CAUSAL),
    ("Conv2D Conv3D SeparableConv2D DepthwiseConv2D MaxPooling2D AveragePooling2D GlobalAveragePooling2D "
     "GlobalMaxPooling2D MaxPooling3D AveragePooling3D GlobalAveragePooling3D GlobalMaxPooling3D ZeroPadding2D "
     "ZeroPadding3D",
     "one of the axes that it works over is time", _CAUSAL + _WRAP),
    ("Convolution2D Convolution3D Conv2DTranspose Conv3DTranspose UpSampling2D UpSampling3D Cropping2D Cropping3D",
     "it works on images, and this form of it is not supported", _CAUSAL),
    ("ConvLSTM1D ConvLSTM2D ConvLSTM3D", "its samples are images or frames, which are not supported", _CAUSAL),
    ("Attention AdditiveAttention MultiHeadAttention GroupQueryAttention GroupedQueryAttention",
     "every position looks at all others, later ones too", _CAUSAL),
    ("GroupNormalization UnitNormalization SpectralNormalization RMSNormalization",
     "this normalisation is not supported", "use LayerNormalization over the last axis; retrain"),
    ("Highway MaxoutDense SReLU ParametricSoftplus",
     "this layer of Keras 1 is not supported", "rebuild it from Dense, Activation and merge layers"),
    ("EinsumDense", "its equation may run over time", "use Dense; retrain"),
):  # fmt: skip
    REASONS |= dict.fromkeys(_names.split(), (_reason, _remedy))


def blocker(layer: str, kind: str) -> Blocker:
    """The blocker for a class that never steps, or that nobody here knows."""
    unknown = (
        "unknown layer: nothing here says how it computes, and no code from a file is ever run",
        "replace it with standard layers; retrain",
    )
    return Blocker(layer, kind, *REASONS.get(kind, unknown))
