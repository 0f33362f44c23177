"""Operators whose cost is told by the shapes of their inputs."""

from __future__ import annotations

from pathlib import Path

from services.predictor.execution.operators import MalformedModel, operators_of

__all__ = ["BY_SHAPE", "cost_follows_from_shapes"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# By domain: the work of these and the sizes of their outputs are bounded by the shapes of their inputs and by attributes. Any
# other may take any time for some value: Loop, Range, Expand, Tile, Pad, DFT, CenterCropPad, HannWindow, RoiAlign, ….
# None of them has a subgraph, so that attributes need not be looked into: who has one is not named here.
BY_SHAPE = {
    "": _names(
        """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
        BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant Conv
        ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Det Div Dropout
        DynamicQuantizeLinear Einsum Elu Equal Erf Exp EyeLike Flatten Floor GRU Gather GatherElements
        GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
        GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM
        LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul
        MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not Or PRelu Pow
        QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Reciprocal ReduceL1 ReduceL2
        ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
        Reshape ReverseSequence Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
        Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze StringConcat StringNormalizer Sub Sum
        Swish Tan Tanh TfIdfVectorizer ThresholdedRelu TopK Transpose Trilu Unique Unsqueeze Where Xor
        """
    ),
    "ai.onnx.ml": _names(
        """
        ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier
        LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
        TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
        """
    ),
}
BY_SHAPE["ai.onnx"] = BY_SHAPE[""]  # two names of one domain


def cost_follows_from_shapes(path: Path) -> bool:
    """Whether every operator of the model is one of these. False too for a file that can't be read, for a model with functions of
    its own, and for one with too many operators to be tiny. Blocks, for some milliseconds."""
    try:
        operators = operators_of(path)
    except MalformedModel:
        return False
    return operators is not None and all(name in BY_SHAPE.get(domain, ()) for domain, name in operators)
