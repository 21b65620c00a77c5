"""What the report of `benchmarks.vela` says besides its figures; found with Vela 5.2.0."""

from __future__ import annotations

HOW_TO_READ = (
    "kB are 1000 bytes, KiB 1024. Weights of MobileNetV2 are random, of a Laplace distribution: "
    "rounded per channel they have 6.4 bits of entropy per weight, where the trained ones of "
    "PP-OCRv4 have 6.5 to 7.0; Vela compresses weights, so that its share is a little flattering. "
    "Those of `fashion_mnist` are trained (7.3 bits).",
    "",
    "*in cascades*: operators that Vela runs in stripes together with others. *ms*: Vela's own "
    "estimate. *ours*: `compress plan` with as much scratchpad, double-buffered where there is "
    "room for it; its feature maps include the image and the result, which are compulsory. "
    "*as Vela encodes them*: our weights, if they shrank as Vela's do. *counted our way*: each "
    "feature map that Vela puts off chip, written once and read once per reader, without padding "
    "and repeated reads. *executed*: the plan's outputs, computed in one byte buffer, against "
    "onnxruntime's.",
)

DIFFERENCES = (
    "## Why they differ",
    "",
    "1. **What may leave.** An Ethos-U55 reads through its second port and never writes: every "
    "feature map stays in SRAM, the image included, and Vela takes as much SRAM as that needs, "
    "whatever it is asked for. Ours takes the image from off chip row by row. For MobileNetV2 the "
    "353.5 KiB are the first cascade: 150,528 bytes of image, 100,352 of its result, 111,104 of "
    "rolling buffers. Plans of ours that write feature maps (*written*) suit an Ethos-U55 only "
    "where its second port leads to memory that something else writes; those that do not need the "
    "image in readable memory.",
    "2. **Padding.** Inside a network Vela lays feature maps out in bricks of 16 channels "
    "(NHCWB16): 24 channels occupy 32, so that the result of the first cascade takes 100,352 bytes "
    "instead of 75,264. Buffers start at multiples of 16 bytes. Ours packs the bytes there are; "
    "firmware for this device would have to pad as well.",
    "3. **Residuals.** Vela's cascades are chains. A skip that spans one stays whole beside it: "
    "two feature maps of 100,352 bytes at the first addition of MobileNetV2, which keep its SRAM "
    "above 340 KiB after the first cascade. In ours a group may contain the addition.",
    "4. **Weights.** Vela encodes them and adds ten bytes of scale and bias per channel. Ours "
    "moves them as they are, with four bytes of bias, and counts no scales. In a cascade Vela "
    "reads the weights again for every stripe where it has no room to keep them: that is what the "
    "smaller requests cost (Performance, asked for 128 KiB). Ours weighs that against the size of "
    "the stripes.",
    "5. **What is counted.** Vela estimates what the port transfers. A layer that reads a feature "
    "map off chip does so block by block, rows at the blocks' borders twice, and an image of three "
    "channels in short transfers: see the table above, where eight channels cost less than three. "
    "At 256 KiB about 3.4 of the 5.4 MB of feature maps that it reports for MobileNetV2 are this "
    "image. In ours everything off chip is copied to the scratchpad first, and a byte counts once. "
    "*Counted our way* removes that difference; weights remain.",
    "6. **What is minimised.** Vela minimises its estimate of time, or SRAM (Size), not traffic: "
    "with more SRAM its traffic may rise (192 KiB against 128). Ours minimises bytes alone.",
    "7. **In place.** Both write elementwise results over their operand.",
    "",
    "## Where Vela is better",
    "",
    "- Its weights are smaller: the encoding saves 5 % of the trained ones here, 14 % of the "
    "random ones. Where nothing is short of room, that is the whole difference, and in Vela's "
    "favour.",
    "- It runs at any size of SRAM where feature maps may lie in DRAM, because operators read and "
    "write DRAM directly and split width and depth. Ours needs whole rows of an operator in the "
    "scratchpad, and says so below that.",
    "- Its plans are commands for a real device, with block sizes, layouts and a model of time: "
    "the smallest plan of MobileNetV2 takes 3 % longer by its estimate. Ours knows bytes; a stripe "
    "of one row may leave multipliers idle, and nothing here measures that.",
    "- It takes a second of processor time; ours takes ten.",
)

DIFFERS = (
    "*differs*: onnxruntime computes these operators with floats, whose sums round otherwise in a "
    "stripe than on a whole tensor. One element is one step off at first; later layers see it. "
    "With onnxruntime's integer kernels (`session.qdqisint8allowed`) the same plans are exact."
)
