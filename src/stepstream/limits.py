"""Every limit on a file from outside, each with its reason. What exceeds one is refused, never cut."""

from __future__ import annotations

# The whole file
MAX_WEIGHT_BYTES = 2**32  # recurrent models are megabytes; 4 GiB of float32 is what a large server still loads
MAX_FILE_BYTES = 2**33  # of a model in HDF5: its weights, and the optimiser's copies of them, which are not read
MAX_STATE_BYTES = 2**30  # a million streams of 250 floats; no state file is larger
MAX_SCALE_BYTES = 2**20  # two numbers per feature: a megabyte is tens of thousands of features
FREE_BYTES = 2**24  # what any file, however small, may expand to: below 16 MiB nothing hurts
MAX_EXPANSION = 200  # times its own size; real weights compress less than twice, deflate allows 1,032
MAX_MESSAGE = 1000  # characters of an error: names in a file may be megabytes
MAX_WINDOW = 1_000_000  # samples in training or under sliding(n): counts stay exact in float32
MAX_LAYERS = 5000  # calls of layers in a model, nested ones too; recurrent networks have a few dozen
MAX_DEPTH = 32  # models within models
MAX_OUTPUTS = 1000  # tensors that a model gives; recurrent networks have a few
MAX_MASKS = 1000  # masks side by side: one for each tensor that a merge joins
MAX_REPEATED_BYTES = 2**30  # of weights that further calls of a layer use, each time: what it takes to step them
MAX_COPIED_BYTES = 2**26  # of those, what is no weight of the file's, but made for each call: of normalisations, mostly

# Data to learn from
MAX_DATA_BYTES = 2**33  # of a file, and of what an archive unpacks to: it is held in memory as a whole
MAX_DATA_LINE = 2**28  # characters of one line: a .ts file has a whole sequence of many channels on one
MAX_DATA_ROW = 2**20  # of one line of a table

# Bundles
MAX_BUNDLE_BYTES = MAX_WEIGHT_BYTES + 2**26  # the weights, a header below MAX_JSON_BYTES and check vectors
MAX_TENSORS = 50_000  # arrays in one file; a layer has a few
MAX_NODES = 5000  # of a graph: a layer is one node or a few, and recurrent networks have a few dozen layers
MAX_NODE_INPUTS = 50_000  # of all nodes together: most have one or two
MAX_CHECK_WORK = 2**30  # numbers touched by all check vectors together: about a second of NumPy, and less in the kernel

# Streams
MAX_KEY_BYTES = 1024  # of a stream's key, which every journal entry repeats; module.cpp has it too

# JSON
MAX_JSON_BYTES = 2**24  # the largest configuration seen is under 1 MB; 16 MiB parse in a second
MAX_JSON_DEPTH = 100  # nested models use about 6 levels each; Python's own parser recurses and gives up near 1,000
MAX_JSON_ELEMENTS = 500_000  # every element is a Python object of about 100 bytes; a vocabulary may be long
MAX_JSON_DIGITS = 400  # longer numbers exceed float64, and Python converts long ones in quadratic time

# Zip archives
MAX_ZIP_ENTRIES = 1000  # Keras writes 3 and one per asset; the directory is read before anything else
MAX_ZIP_DIRECTORY_BYTES = 2**20  # a thousand entries of a hundred bytes, ten times over

# HDF5
MAX_HDF5_READS = 500_000  # about 10 per object: tens of thousands of weights; also what ends a loop through a file
MAX_METADATA_BYTES = 2**26  # headers, names and attributes; the largest attribute is the configuration
MAX_HEADER_READS = 512  # one object header in so many pieces: a chain of pieces that leads back to itself ends here
MAX_HEADER_BYTES = 2**21  # an attribute in a header is at most 64 KiB, and Keras splits longer ones
MAX_HEADER_MESSAGES = 10_000  # attributes and links of one object that lie in its header
MAX_TREE_DEPTH = 8  # levels of an index; 2 hold tens of thousands of entries
MAX_HEAP_BLOCKS = 128  # blocks of one heap of names or attributes: 6 MB; each entry is looked for in all of them
MAX_LINKS = 100_000  # names in all groups that are looked at
MAX_GROUP_DEPTH = 32  # groups within groups: layer names with slashes and nested models take a few
MAX_RANK = 32  # axes of an array; HDF5's own limit
MAX_ATTRIBUTE_ITEMS = 100_000  # weight names of one layer
MAX_CHUNKS = 100_000  # pieces of one array
MAX_STRING_BYTES = 2**26  # text of one attribute or array, since all its entries may point to the same megabyte

# The graph
MAX_VALUES = 2**26  # of one sample, in all tensors together: 256 MiB; a network for photographs has 2**25
MAX_INDEX = 2**24  # float32 holds whole numbers up to here
MAX_TABLE = 2**23  # values by position that taking Flatten apart makes: 4,000 samples of 512 units, four times over
MAX_PIECES = 2000  # parts of joined vectors, layer by layer; behind Flatten stand a few layers and branches
