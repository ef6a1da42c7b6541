"""Why channels stay: every sentence that a report may give, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Completes "LAYER ...". at: a node, by operator. why: a reason of that node's, or of another channel's."""

    # of a linear map or a recurrent node
    BIAS_FROM_DATA = "adds a bias that is computed from data"
    BIAS_ALONG_BATCH = "adds a bias that varies along the batch"
    PRODUCT_OF_DATA = "multiplies two tensors that both depend on data"
    PRODUCT_OF_CONSTANTS = "multiplies two constants"
    PRODUCT_WITH_VECTOR = "multiplies with a vector that depends on data"
    BATCH_TRANSPOSED = "multiplies with the batch transposed"
    BATCH_OF_WEIGHTS = "multiplies with weights that have a batch dimension"
    SEVERAL_AXES = "multiplies with weights that have a batch dimension, or several axes to contract or produce"
    WEIGHTS_FROM_DATA = "multiplies with weights that are computed from data"
    KERNELS_FROM_DATA = "convolves with weights that are computed from data"
    UNKNOWN_EQUATION = "has an equation that is not understood"
    ONE_OUTPUT = "has one output channel only"
    ONE_CHANNEL = "has one independent channel only"
    HEADS = "has attention heads, which stay"
    CACHES = "keeps keys and values for later steps, which stay"
    ONE_WIDTH = "wants queries, keys and values of one width"
    ROTATES = "rotates channels otherwise than in whole heads by rows of constant tables"
    BATCH_FIRST = "has its batch in front of its steps"
    RECURRENT_FROM_DATA = "has recurrent weights that are computed from data"
    STATE_FROM_INPUT = "starts from a state that is an input of the model"
    STATE_FROM_DATA = "starts from a state that is computed from data"
    WEIGHTS_NOT_FINITE = "has weights that are not finite"
    WEIGHTS_EMPTY = "has weights without numbers"
    WEIGHTS_ARE_OUTPUT = "has weights that are an output of the model"
    WEIGHTS_USED_ELSEWHERE = "uses its weight for something else too"
    WEIGHTS_FROM_SHAPE = "has weights that are computed from a shape, which slicing would have to write out"
    WEIGHTS_SPARSE = "has sparse weights, which stay"

    # of a weight that is no pair of factors
    WEIGHTS_NARROW = "holds integers, or floats of 16 bits"
    WEIGHTS_COMPUTED = "has weights that other nodes compute"
    GROUPED = "is a convolution in groups"
    SCATTERS = "is a transposed convolution"
    IN_BODY = "lies in the body of an If, Loop or Scan"
    WINDOWED = "has kernels of several places"
    LAID_OUT = "has channels along several axes, or not along the last ones"
    NO_SMALLER = "is no smaller as a pair"

    # of a normalization
    BATCH_STATISTICS = "normalizes with statistics of the batch"
    PARAMETERS_FROM_DATA = "normalizes with parameters that are computed from data"
    PARAMETERS_ALONG_OTHERS = "normalizes with parameters that vary along other axes"
    PARAMETERS_NOT_FINITE = "has parameters that are not finite"
    RETURNS_STATISTICS = "also returns its statistics"
    NORMALIZES_TOGETHER = "normalizes channels together"

    # of a function of single elements
    REMAINDER = "takes the remainder of a division by what is not one constant"
    POWER = "raises to a power that is not one constant"
    CLIPS_BY_DATA = "clips to bounds that are computed from data"
    SLOPES_FROM_DATA = "has slopes that are computed from data"
    RETURNS_MASK = "also returns its mask"
    SCALE_FROM_DATA = "quantizes with a scale that is computed from data"
    SCALE_IN_BLOCKS = "quantizes in blocks"
    SCALE_PER_CHANNEL = "quantizes each channel with a scale of its own"
    INTEGERS = "computes with integers"
    BY_CHANNEL = "compares or divides by channel"
    MIXES = "mixes channels"

    # of a window or of data movement
    CLEARS_BY_POSITION = "clears channels by their position"
    SUM_ALONG_DATA = "adds up along an axis that is computed from data"
    ADDS_UP = "adds up channels"
    CROPS = "crops, and fills with a number what lies beyond the border"
    ASPECT_RATIO = "resizes to sizes that depend on the aspect ratio"
    RESIZES_BY_DATA = "resizes by amounts that are computed from data"
    RESIZES_CHANNELS = "resizes along its channels"
    PADS_BY_DATA = "pads by amounts that are computed from data"
    PADS_UNFIT = "pads by amounts that do not fit its input"
    PADS_WITH_DATA = "pads with a number that is computed from data"
    ADDS_CHANNELS = "adds channels"
    RETURNS_INDICES = "also returns the indices of its maxima"
    COMPARES = "compares channels"
    REDUCES_BY_DATA = "reduces over axes that are computed from data"
    REDUCES_NOTHING = "reduces over no axis"
    REDUCES = "reduces over channels"
    MOVES_BY_DATA = "moves data by amounts that are computed from data"
    MOVES_NOTHING = "an empty tensor has no labels"
    TAKES_BY_SIZE = "takes channels by numbers that follow the sizes of the inputs"
    REGROUPS_BY_SIZE = "regroups channels and places in a way that follows the sizes of the inputs"
    SIZE_UNKNOWN = "maybe follows a size of the inputs that could not be varied"
    APPENDS_EMPTY = "appends what is empty here, and maybe not at other sizes"

    # of an operator as a whole
    UNSUPPORTED = "is not supported yet"
    QUANTIZED = "is quantized: condense the float model, then quantize it"
    FAILED = "ran into an error of this program ({at}), please report it"
    OTHER_MACHINE = "was optimized for another machine: condense the model that it was made from"

    # of channels, at the node that reads them
    READ = "is read by {at}, which {why}"
    READ_UNKNOWN = "is read by {at} in a way that is not understood"
    READ_AS_ROWS = "is read by {at} as row numbers"
    READ_AS_OTHER = "is read by {at} as something else than its data"
    READ_BY_TIED = "is read by {at}, whose weight also reads something else"
    READ_BESIDE = "is read by {at} beside a tensor whose channels cannot be removed"
    MEETS_OTHERS = "meets a tensor at {at} whose channels cannot be removed"
    MEETS_ALONG_OTHERS = "meets a tensor at {at} that varies along other axes"
    MEETS_NOT_FINITE = "meets a constant at {at} that is not finite"
    ALONG_ANOTHER = "varies along another axis at {at}"
    ALONG_BATCH = "varies along a batch axis at {at}"
    IN_SPACE = "varies in space at {at}"
    SLOPES_IN_SPACE = "has slopes that vary in space at {at}"
    NORMALIZED_TOGETHER = "is normalized together with other channels at {at}"
    REPEATS = "repeats too often at {at}"
    BROADCAST = "is broadcast as a single channel at {at}"

    # of a stream that normalizations read, at the node that reads it
    BY_ITSELF = "takes channels one by one"
    MULTIPLIES = "multiplies channels with each other"
    TAKES_APART = "takes some channels apart from others"
    SCALED_IN_STREAM = "adds channels that were scaled one by one"
    SHIFTED = "adds numbers to channels whose mean stays in them"

    # of channels, in the graph as a whole
    OUTPUT = "is an output of the model"
    OUTPUT_OF_BODY = "is an output of an If, Loop or Scan body"
    READ_IN_BODY = "is read inside an If, Loop or Scan body"
    SHAPE_IS_OUTPUT = "has a shape that is an output of the model"
    CONSTANT = "is computed from constants alone"
    LONELY = "has one channel only in a group or head, or lies beside what has no channels"
    ALIKE = "must keep as many channels as others that share its groups or heads: it {why}"

    # of a node with bodies
    BODY_UNSUPPORTED = "has a body that is written in a way that is not supported"
    BODY_OF_OTHERS = "has a body that takes something else than tensors of numbers"
    BODY_RESIZES = "has a body that carries tensors whose sizes change from one iteration to the next"
    BODY_DOES_NOT_RUN = "has a body that does not run on the verification inputs"


@dataclass(frozen=True)
class Because:
    """A reason at its place: `at`, a node by operator, and the reason behind it. Its text completes "LAYER ..."."""

    reason: Reason
    at: str = ""
    why: Because | None = None

    def __str__(self) -> str:
        return self.reason.value.format(at=self.at, why=self.why)

    @property
    def cause(self) -> Because:
        """The one behind all others."""
        return self if self.why is None else self.why.cause

    @property
    def root(self) -> Reason:
        """The reason behind all others."""
        return self.cause.reason


def with_article(operator: str) -> str:
    """How a sentence calls a node: by operator, so that reasons group."""
    vowel = operator[0] in "AEIOaeio" or operator in ("LSTM", "RNN", "Unsqueeze", "Upsample")
    return f"{'an' if vowel else 'a'} {operator}"
