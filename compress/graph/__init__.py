"""The canonical graph: what every pass reads and rewrites.

`canonical.canonicalize` brings any ONNX model into the one form the rest of the project works on,
`printer.to_text` shows it one line per node, and each other module is one rewrite.
"""
