"""Int8 networks from one description, as TFLite for Vela and as QDQ ONNX for us.

`description` says what a network is and `networks` which ones there are; `onnx_file` and
`tflite_file` write them. What needs Vela's packages runs in an environment of its own, see
`interpreter`.
"""
