"""The part of Caffe's ``caffe.proto`` that we read, as a table: field names and numbers are the interface.

One line per field: ``number name type [= default]``; ``type*`` is a repeated field, numbers among them packed where
Caffe packs them (``packed``). A type in capitals' first letter is another message or an enumeration of this table.

Numbers are those of BVLC/caffe, SSD's for the layers that come from there (Permute, Normalize). What has no number
that all of Caffe's relatives agree on, AutoMTL's own fields among them, has a number of 1000 or more: it is read from
text by its name, and never from the bytes of somebody else's ``.caffemodel``.
"""

from __future__ import annotations

ENUMS: dict[str, str] = {
    "Phase": "TRAIN=0 TEST=1",
    "DimCheckMode": "STRICT=0 PERMISSIVE=1",
    "VarianceNorm": "FAN_IN=0 FAN_OUT=1 AVERAGE=2",
    "Engine": "DEFAULT=0 CAFFE=1 CUDNN=2",
    "BNMode": "LEARN=0 INFERENCE=1",
    "PoolMethod": "MAX=0 AVE=1 STOCHASTIC=2",
    "RoundMode": "CEIL=0 FLOOR=1",
    "EltwiseOp": "PROD=0 SUM=1 MAX=2",
    "NormRegion": "ACROSS_CHANNELS=0 WITHIN_CHANNEL=1",
    "ReductionOp": "SUM=1 ASUM=2 SUMSQ=3 MEAN=4",
    "DB": "LEVELDB=0 LMDB=1",
    "NormalizationMode": "FULL=0 VALID=1 BATCH_SIZE=2 NONE=3",
    "V1LayerType": (
        "NONE=0 ACCURACY=1 BNLL=2 CONCAT=3 CONVOLUTION=4 DATA=5 DROPOUT=6 EUCLIDEAN_LOSS=7 FLATTEN=8 HDF5_DATA=9 "
        "HDF5_OUTPUT=10 IM2COL=11 IMAGE_DATA=12 INFOGAIN_LOSS=13 INNER_PRODUCT=14 LRN=15 MEMORY_DATA=29 "
        "MULTINOMIAL_LOGISTIC_LOSS=16 POOLING=17 RELU=18 SIGMOID=19 SOFTMAX=20 SOFTMAX_LOSS=21 SPLIT=22 TANH=23 "
        "WINDOW_DATA=24 ELTWISE=25 POWER=26 SIGMOID_CROSS_ENTROPY_LOSS=27 HINGE_LOSS=28 ARGMAX=30 THRESHOLD=31 "
        "DUMMY_DATA=32 SLICE=33 MVN=34 ABSVAL=35 SILENCE=36 CONTRASTIVE_LOSS=37 EXP=38 DECONVOLUTION=39"
    ),
}

MESSAGES: dict[str, str] = {
    "BlobShape": "1 dim int64* packed",
    "BlobProto": """
        7 shape BlobShape
        5 data float* packed
        6 diff float* packed
        8 double_data double* packed
        9 double_diff double* packed
        1 num int64 = 0
        2 channels int64 = 0
        3 height int64 = 0
        4 width int64 = 0
    """,
    "FillerParameter": """
        1 type string = constant
        2 value float = 0
        3 min float = 0
        4 max float = 1
        5 mean float = 0
        6 std float = 1
        7 sparse int32 = -1
        8 variance_norm VarianceNorm = FAN_IN
    """,
    "NetParameter": """
        1 name string
        3 input string*
        8 input_shape BlobShape*
        4 input_dim int32*
        5 force_backward bool = false
        6 state NetState
        7 debug_info bool = false
        100 layer LayerParameter*
        2 layers V1LayerParameter*
    """,
    "NetState": """
        1 phase Phase = TEST
        2 level int32 = 0
        3 stage string*
    """,
    "NetStateRule": """
        1 phase Phase
        2 min_level int32
        3 max_level int32
        4 stage string*
        5 not_stage string*
    """,
    "ParamSpec": """
        1 name string
        2 share_mode DimCheckMode = STRICT
        3 lr_mult float = 1
        4 decay_mult float = 1
    """,
    "LayerParameter": """
        1 name string
        2 type string
        3 bottom string*
        4 top string*
        10 phase Phase
        5 loss_weight float*
        6 param ParamSpec*
        7 blobs BlobProto*
        11 propagate_down bool*
        8 include NetStateRule*
        9 exclude NetStateRule*
        100 transform_param TransformationParameter
        101 loss_param LossParameter
        102 accuracy_param AccuracyParameter
        103 argmax_param ArgMaxParameter
        139 batch_norm_param BatchNormParameter
        141 bias_param BiasParameter
        148 clip_param ClipParameter
        104 concat_param ConcatParameter
        106 convolution_param ConvolutionParameter
        144 crop_param CropParameter
        107 data_param DataParameter
        108 dropout_param DropoutParameter
        109 dummy_data_param DummyDataParameter
        110 eltwise_param EltwiseParameter
        140 elu_param ELUParameter
        111 exp_param ExpParameter
        135 flatten_param FlattenParameter
        112 hdf5_data_param HDF5DataParameter
        115 image_data_param ImageDataParameter
        117 inner_product_param InnerProductParameter
        143 input_param InputParameter
        134 log_param LogParameter
        118 lrn_param LRNParameter
        119 memory_data_param MemoryDataParameter
        120 mvn_param MVNParameter
        206 norm_param NormalizeParameter
        202 permute_param PermuteParameter
        121 pooling_param PoolingParameter
        122 power_param PowerParameter
        131 prelu_param PReLUParameter
        136 reduction_param ReductionParameter
        123 relu_param ReLUParameter
        133 reshape_param ReshapeParameter
        142 scale_param ScaleParameter
        124 sigmoid_param SigmoidParameter
        125 softmax_param SoftmaxParameter
        126 slice_param SliceParameter
        147 swish_param SwishParameter
        127 tanh_param TanHParameter
        128 threshold_param ThresholdParameter
        138 tile_param TileParameter
        1001 interp_param InterpParameter
        1002 upsample_param UpsampleParameter
        1003 bn_param BNParameter
        1004 shuffle_channel_param ShuffleChannelParameter
    """,
    "V1LayerParameter": """
        2 bottom string*
        3 top string*
        4 name string
        32 include NetStateRule*
        33 exclude NetStateRule*
        5 type V1LayerType
        6 blobs BlobProto*
        1001 param string*
        1002 blob_share_mode DimCheckMode*
        7 blobs_lr float*
        8 weight_decay float*
        35 loss_weight float*
        27 accuracy_param AccuracyParameter
        23 argmax_param ArgMaxParameter
        9 concat_param ConcatParameter
        10 convolution_param ConvolutionParameter
        11 data_param DataParameter
        12 dropout_param DropoutParameter
        26 dummy_data_param DummyDataParameter
        24 eltwise_param EltwiseParameter
        41 exp_param ExpParameter
        13 hdf5_data_param HDF5DataParameter
        15 image_data_param ImageDataParameter
        17 inner_product_param InnerProductParameter
        18 lrn_param LRNParameter
        22 memory_data_param MemoryDataParameter
        34 mvn_param MVNParameter
        19 pooling_param PoolingParameter
        21 power_param PowerParameter
        30 relu_param ReLUParameter
        38 sigmoid_param SigmoidParameter
        39 softmax_param SoftmaxParameter
        31 slice_param SliceParameter
        37 tanh_param TanHParameter
        25 threshold_param ThresholdParameter
        36 transform_param TransformationParameter
        42 loss_param LossParameter
        1 layer V0LayerParameter
    """,
    # Only to recognise a file of this age: Caffe's own upgrade_net_proto_text reads it.
    "V0LayerParameter": """
        1 name string
        2 type string
    """,
    "TransformationParameter": """
        1 scale float = 1
        2 mirror bool = false
        3 crop_size uint32 = 0
        4 mean_file string
        5 mean_value float*
        6 force_color bool = false
        7 force_gray bool = false
        1001 crop_h uint32 = 0
        1002 crop_w uint32 = 0
    """,
    "LossParameter": """
        1 ignore_label int32
        2 normalize bool
        3 normalization NormalizationMode = VALID
    """,
    "AccuracyParameter": """
        1 top_k uint32 = 1
        2 axis int32 = 1
        3 ignore_label int32
    """,
    "ArgMaxParameter": """
        1 out_max_val bool = false
        2 top_k uint32 = 1
        3 axis int32
    """,
    "BatchNormParameter": """
        1 use_global_stats bool
        2 moving_average_fraction float = 0.999
        3 eps float = 1e-5
        1001 track_running_stats bool = true
        1002 momentum float = 0.1
        1004 affine bool = true
    """,
    "BNParameter": """
        1 slope_filler FillerParameter
        2 bias_filler FillerParameter
        3 momentum float = 0.9
        4 eps float = 1e-5
        5 frozen bool = false
        6 engine Engine = DEFAULT
        1001 scale_filler FillerParameter
        1002 shift_filler FillerParameter
        1003 bn_mode BNMode = LEARN
        1004 moving_average bool
        1005 decay float
    """,
    "BiasParameter": """
        1 axis int32 = 1
        2 num_axes int32 = 1
        3 filler FillerParameter
    """,
    "ClipParameter": """
        1 min float
        2 max float
    """,
    "ConcatParameter": """
        2 axis int32 = 1
        1 concat_dim uint32 = 1
    """,
    "ConvolutionParameter": """
        1 num_output uint32
        2 bias_term bool = true
        3 pad uint32*
        4 kernel_size uint32*
        6 stride uint32*
        18 dilation uint32*
        9 pad_h uint32 = 0
        10 pad_w uint32 = 0
        11 kernel_h uint32
        12 kernel_w uint32
        13 stride_h uint32
        14 stride_w uint32
        5 group uint32 = 1
        7 weight_filler FillerParameter
        8 bias_filler FillerParameter
        15 engine Engine = DEFAULT
        16 axis int32 = 1
        17 force_nd_im2col bool = false
        1001 hole uint32
        1002 hole_h uint32
        1003 hole_w uint32
    """,
    "CropParameter": """
        1 axis int32 = 2
        2 offset uint32*
    """,
    "DataParameter": """
        1 source string
        4 batch_size uint32
        7 rand_skip uint32 = 0
        8 backend DB = LEVELDB
        2 scale float = 1
        3 mean_file string
        5 crop_size uint32 = 0
        6 mirror bool = false
        9 force_encoded_color bool = false
        10 prefetch uint32 = 4
    """,
    "DropoutParameter": """
        1 dropout_ratio float = 0.5
        1002 inplace bool = false
        1003 scale_train bool = true
    """,
    "DummyDataParameter": """
        1 data_filler FillerParameter*
        6 shape BlobShape*
        2 num uint32*
        3 channels uint32*
        4 height uint32*
        5 width uint32*
    """,
    "EltwiseParameter": """
        1 operation EltwiseOp = SUM
        2 coeff float*
        3 stable_prod_grad bool = true
    """,
    "ELUParameter": """
        1 alpha float = 1
        1002 inplace bool = false
    """,
    "ExpParameter": """
        1 base float = -1
        2 scale float = 1
        3 shift float = 0
    """,
    "FlattenParameter": """
        1 axis int32 = 1
        2 end_axis int32 = -1
    """,
    "HDF5DataParameter": """
        1 source string
        2 batch_size uint32
        3 shuffle bool = false
    """,
    "ImageDataParameter": """
        1 source string
        4 batch_size uint32 = 1
        7 rand_skip uint32 = 0
        8 shuffle bool = false
        9 new_height uint32 = 0
        10 new_width uint32 = 0
        11 is_color bool = true
        2 scale float = 1
        3 mean_file string
        5 crop_size uint32 = 0
        6 mirror bool = false
        12 root_folder string
    """,
    "InnerProductParameter": """
        1 num_output uint32
        2 bias_term bool = true
        3 weight_filler FillerParameter
        4 bias_filler FillerParameter
        5 axis int32 = 1
        6 transpose bool = false
    """,
    "InputParameter": "1 shape BlobShape*",
    "InterpParameter": """
        1 height int32 = 0
        2 width int32 = 0
        3 zoom_factor int32 = 1
        4 shrink_factor int32 = 1
        5 pad_beg int32 = 0
        6 pad_end int32 = 0
    """,
    "LogParameter": """
        1 base float = -1
        2 scale float = 1
        3 shift float = 0
    """,
    "LRNParameter": """
        1 local_size uint32 = 5
        2 alpha float = 1
        3 beta float = 0.75
        4 norm_region NormRegion = ACROSS_CHANNELS
        5 k float = 1
        6 engine Engine = DEFAULT
    """,
    "MemoryDataParameter": """
        1 batch_size uint32
        2 channels uint32
        3 height uint32
        4 width uint32
    """,
    "MVNParameter": """
        1 normalize_variance bool = true
        2 across_channels bool = false
        3 eps float = 1e-9
    """,
    "NormalizeParameter": """
        1 across_spatial bool = true
        2 scale_filler FillerParameter
        3 channel_shared bool = true
        4 eps float = 1e-10
    """,
    "PermuteParameter": "1 order uint32*",
    "PoolingParameter": """
        1 pool PoolMethod = MAX
        4 pad uint32 = 0
        9 pad_h uint32 = 0
        10 pad_w uint32 = 0
        2 kernel_size uint32
        5 kernel_h uint32
        6 kernel_w uint32
        3 stride uint32 = 1
        7 stride_h uint32
        8 stride_w uint32
        11 engine Engine = DEFAULT
        12 global_pooling bool = false
        13 round_mode RoundMode = CEIL
        1001 ceil_mode bool = true
    """,
    "PowerParameter": """
        1 power float = 1
        2 scale float = 1
        3 shift float = 0
    """,
    "PReLUParameter": """
        1 filler FillerParameter
        2 channel_shared bool = false
    """,
    "ReductionParameter": """
        1 operation ReductionOp = SUM
        2 axis int32 = 0
        3 coeff float = 1
    """,
    "ReLUParameter": """
        1 negative_slope float = 0
        2 engine Engine = DEFAULT
        1003 inplace bool = false
    """,
    "ReshapeParameter": """
        1 shape BlobShape
        2 axis int32 = 0
        3 num_axes int32 = -1
    """,
    "ScaleParameter": """
        1 axis int32 = 1
        2 num_axes int32 = 1
        3 filler FillerParameter
        4 bias_term bool = false
        5 bias_filler FillerParameter
    """,
    "ShuffleChannelParameter": "1 group uint32 = 1",
    "SigmoidParameter": "1 engine Engine = DEFAULT",
    "SliceParameter": """
        3 axis int32 = 1
        2 slice_point uint32*
        1 slice_dim uint32 = 1
    """,
    "SoftmaxParameter": """
        1 engine Engine = DEFAULT
        2 axis int32 = 1
    """,
    "SwishParameter": "1 beta float = 1",
    "TanHParameter": "1 engine Engine = DEFAULT",
    "ThresholdParameter": "1 threshold float = 0",
    "TileParameter": """
        1 axis int32 = 1
        2 tiles int32
    """,
    "UpsampleParameter": """
        1 scale uint32 = 2
        2 scale_h uint32
        3 scale_w uint32
        4 pad_out_h bool = false
        5 pad_out_w bool = false
        6 upsample_h uint32
        7 upsample_w uint32
    """,
    # The weights alone, in a form that reads gigabytes at the speed of a copy: packed floats are bytes, and no
    # parameter message is looked at, so that the numbers of any relative of Caffe do.
    "WeightFile": """
        1 name bytes
        100 layer WeightLayer*
        2 layers WeightLayerV1*
    """,
    "WeightLayer": """
        1 name bytes
        2 type bytes
        7 blobs WeightBlob*
    """,
    "WeightLayerV1": """
        4 name bytes
        5 type int32
        6 blobs WeightBlob*
        1 layer WeightLayerV0
    """,
    "WeightLayerV0": """
        1 name bytes
        2 type bytes
        50 blobs WeightBlob*
    """,
    "WeightBlob": """
        7 shape BlobShape
        5 data bytes*
        8 double_data bytes*
        1 num int64 = 0
        2 channels int64 = 0
        3 height int64 = 0
        4 width int64 = 0
    """,
}
