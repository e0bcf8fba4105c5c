"""The operations of TensorFlow that a served graph may hold, and those that it never may.

A graph is a program: TensorFlow's SECURITY.md says that a process which runs an untrusted one
should be assumed to execute arbitrary code, and that one may allow a few safe operations, in a
sandbox all the same. So `--require-manifest` goes by a list of what is allowed. A list of what is
forbidden ages badly: each TensorFlow brings new operations (2.21 knows 1,910, three times what ten
people have read), libraries add their own, and the one that was forgotten is the one that is used.

What is allowed is what the exports of all of dlkit's models use, and the mathematics of the same
families. None of it opens a file, a connection or Python. All of it can take time and memory
without end: that no list can forbid.
"""

from __future__ import annotations

import re

# Values and how they are passed on. `Assert` answers with an error, it prints nothing.
PASSED = """
    Assert BroadcastTo Cast CheckNumerics CheckNumericsV2 Const EnsureShape ExpandDims Fill Identity
    IdentityN InvertPermutation LinSpace NoOp OnesLike Placeholder PlaceholderWithDefault
    PreventGradient Range Rank Reshape Shape ShapeN Size Snapshot Squeeze StopGradient ZerosLike
"""
# Functions of the same graph, all of which are looked at as well.
CALLED = """
    Case If PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile While
"""
# The model's weights. The variables of other models have names of no string and cannot be met.
VARIABLES = """
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp DisableCopyOnRead ReadVariableOp
    ResourceGather ResourceGatherNd VarHandleOp VarIsInitializedOp VariableShape
"""
# Number by number.
ELEMENTWISE = """
    Abs Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0e
    BesselI1e BitwiseAnd BitwiseOr BitwiseXor Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh
    Digamma Div DivNoNan Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater
    GreaterEqual Igamma Igammac Imag Inv Invert IsFinite IsInf IsNan LeftShift Less LessEqual Lgamma
    Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter
    NotEqual Polygamma Pow Real RealDiv Reciprocal RightShift Rint Round Rsqrt Select SelectV2 Sign
    Sin Sinh Sqrt Square SquaredDifference Sub Tan TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta
"""
# Sums, products and orders over axes.
REDUCED = """
    All Any ArgMax ArgMin Bincount Bucketize Cumprod Cumsum CumulativeLogsumexp DenseBincount
    EuclideanNorm InTopKV2 LowerBound Max Mean Min NthElement Prod SegmentMaxV2 SegmentMean
    SegmentMinV2 SegmentProdV2 SegmentSumV2 Sum TopKV2 Unique UniqueV2 UniqueWithCounts
    UniqueWithCountsV2 UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
    UpperBound
"""
# Where numbers stand.
MOVED = """
    BatchToSpace BatchToSpaceND Concat ConcatOffset ConcatV2 DepthToSpace Diag DiagPart
    DynamicPartition DynamicStitch Gather GatherNd GatherV2 MatrixBandPart MatrixDiag MatrixDiagPart
    MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiagV3 MirrorPad OneHot Pack
    Pad PadV2 ParallelDynamicStitch Reverse ReverseSequence ReverseV2 Roll ScatterNd
    Slice SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV StridedSlice TensorScatterAdd
    TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate
    TensorStridedSliceUpdate Tile Transpose Unpack UnravelIndex Where
"""
# Matrices and transforms.
LINEAR = """
    BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky Cross Einsum FFT FFT2D FFT3D IFFT IFFT2D IFFT3D
    IRFFT IRFFT2D MatMul MatrixDeterminant MatrixInverse MatrixSolve MatrixTriangularSolve Qr RFFT
    RFFT2D SelfAdjointEigV2 Svd
"""
# Layers of nets.
LAYERS = """
    AvgPool AvgPool3D BiasAdd BiasAddV1 Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2
    DepthwiseConv2dNative Dilation2D Elu ExtractImagePatches FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 L2Loss LRN LeakyRelu LogSoftmax MaxPool MaxPool3D MaxPoolV2 Relu Relu6 Selu
    Sigmoid SoftmaxCrossEntropyWithLogits Softmax Softplus Softsign
    SparseSoftmaxCrossEntropyWithLogits Tanh
"""
# Slopes of layers: a score that says how much each input weighed.
SLOPES = """
    AvgPool3DGrad AvgPoolGrad BiasAddGrad BroadcastGradientArgs Conv2DBackpropFilter
    Conv3DBackpropFilterV2 DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput
    EluGrad FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 InvGrad LRNGrad
    LeakyReluGrad MaxPool3DGrad MaxPoolGrad MaxPoolGradV2 MirrorPadGrad ReciprocalGrad Relu6Grad
    ReluGrad ResizeBicubicGrad ResizeBilinearGrad ResizeNearestNeighborGrad RsqrtGrad
    ScaleAndTranslateGrad SeluGrad SigmoidGrad SoftplusGrad SoftsignGrad SqrtGrad StridedSliceGrad
    TanhGrad
"""
# Numbers drawn from a seed that is given.
DRAWN = """
    StatelessMultinomial StatelessRandomGammaV2 StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2
"""
# Text, in memory. The regular expressions are RE2's, whose time grows with the text alone.
TEXT = """
    AsString DecodeBase64 DecodePaddedRaw DecodeRaw EncodeBase64 ReduceJoin RegexFullMatch
    RegexReplace StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin StringLength
    StringLower StringNGrams StringSplitV2 StringStrip StringToHashBucketFast
    StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode
    UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode UnsortedSegmentJoin
"""
# Encoded images, in memory; how large one may unfold is limited before the graph sees it.
IMAGES = """
    AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize DecodeAndCropJpeg DecodeBmp DecodeGif
    DecodeImage DecodeJpeg DecodePng DecodeWebP EncodeJpeg EncodePng ExtractJpegShape HSVToRGB
    ImageProjectiveTransformV3 RGBToHSV ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ScaleAndTranslate
"""
# Lists of tensors and rows of different lengths. No tables: they are shared between models by name.
CONTAINERS = """
    EmptyTensorList RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse
    RaggedTensorToTensor RaggedTensorToVariant SparseReorder SparseToDense TensorListConcatV2
    TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
    TensorListPopBack TensorListPushBack TensorListReserve TensorListResize TensorListScatterV2
    TensorListSetItem TensorListSplit TensorListStack
"""
NUMBERS = (ELEMENTWISE, REDUCED, MOVED, LINEAR, LAYERS, SLOPES, DRAWN)
ALLOWED = frozenset(
    " ".join([PASSED, CALLED, VARIABLES, *NUMBERS, TEXT, IMAGES, CONTAINERS]).split()
)
# Python's classes that TensorFlow itself makes objects of while it loads: a constant.
CLASSES = frozenset(["tf.TrackableConstant"])
# How a checkpoint is written and read. Every SavedModel holds them: allowed to its saver alone,
# which the server does not run (TensorFlow reads the variables with code of its own).
SAVER = frozenset(["MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"])

# What is refused in every graph, by what it does. Names without "Experimental" and a last "V2".
# `InitializeTableFromTextFile` is not here: foreign models read their vocabularies with it.
FORBIDDEN = {
    "reads or writes files": """
        CSVDataset CacheDataset CalibrationStatisticsSaver CreateSummaryDbWriter
        CreateSummaryFileWriter DTensorRestore DatasetToTFRecord DebugIdentity DebugNanCount
        DebugNumericSummary DecodeProto DistributedSave DumpTensor
        EncodeProto FileSystemSetConfiguration FixedLengthRecordDataset FixedLengthRecordReader
        FixedUnigramCandidateSampler FlushSummaryWriter GenerateVocabRemapping ImportEvent LMDBDataset
        LMDBReader ListSnapshotChunksDataset LoadAndRemapMatrix LoadDataset MatchingFiles
        MatchingFilesDataset MergeV2Checkpoints Print ReadFile RecordInput Restore RestoreSlice Save SaveDataset
        SaveSlices Skipgram SnapshotChunkDataset SnapshotDataset SnapshotDatasetReader
        SnapshotNestedDatasetReader SqlDataset SummaryWriter TFRecordDataset TFRecordReader
        TextLineDataset TextLineReader WholeFileReader WriteAudioSummary WriteFile WriteGraphSummary
        WriteHistogramSummary WriteImageSummary WriteRawProtoSummary WriteScalarSummary WriteSummary
    """,
    "runs Python": "EagerPyFunc GeneratorDataset PyFunc PyFuncStateless",
    "runs code that is not TensorFlow's": """
        TfLiteSubgraphExecute TRTEngineOp XlaCallModule XlaCustomCall XlaLaunch
    """,
    "talks to other processes": """
        CollectiveAllToAll CollectiveAssignGroup CollectiveBcastRecv CollectiveBcastSend
        CollectiveGather CollectiveInitializeCommunicator CollectivePermute CollectiveReduce
        CollectiveReduceScatter ConfigureDistributedTPU DataServiceDataset DeleteRpcFutureResource
        NcclAllReduce NcclBroadcast NcclReduce Recv RemoteCall RpcCall RpcCheckStatus RpcClient
        RpcGetValue RpcServer RpcServerRegister RpcServerStart Send StoreMinibatchStatisticsInFdo
        WorkerHeartbeat XlaHostCompute XlaRecvFromHost XlaSendToHost _HostRecv _HostSend
        _NcclBroadcastRecv _NcclBroadcastSend _NcclReduceRecv _NcclReduceSend _Recv _Send
        _XlaHostComputeMlir _XlaRecvAtHost _XlaSendFromHost
    """,
}
_DOES = {name: does for does, names in FORBIDDEN.items() for name in names.split()}


def does(operation: str) -> str | None:
    """Return for what an operation is refused in every graph, None for one that is not."""
    known = re.sub(r"^Experimental|V[0-9]+$", "", operation)
    return _DOES.get(operation) or _DOES.get(known)
